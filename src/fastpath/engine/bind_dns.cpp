#include "bind.hpp"

namespace fastpath::engine {

void bind_dns(pybind11::module_&) {}

}  // namespace fastpath::engine
