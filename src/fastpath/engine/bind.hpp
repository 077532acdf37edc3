// One function a subject; each lives in bind_SUBJECT.cpp and holds nothing but argument handling.
#pragma once

#include <pybind11/pybind11.h>

namespace fastpath::engine {

void bind_dns(pybind11::module_& module);
void bind_switch(pybind11::module_& module);

}  // namespace fastpath::engine
