#include "bind.hpp"

namespace fastpath::engine {

void bind_switch(pybind11::module_&) {}

}  // namespace fastpath::engine
