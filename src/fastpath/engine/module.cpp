// The one pybind11 module: objects that own threads and sockets.
#include <pybind11/pybind11.h>

#include "bind.hpp"

PYBIND11_MODULE(_engine, module) {
  module.doc() = "Objects that own threads and sockets: the switch worker and the DNS responder.";
  fastpath::engine::bind_dns(module);
  fastpath::engine::bind_switch(module);
}
