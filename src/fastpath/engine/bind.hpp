// One function a subject; each lives in bind_SUBJECT.cpp and holds nothing but argument handling.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace fastpath::engine {

// Releases the GIL while it lives. Whoever asks for the GIL while the interpreter ends never gets it: CPython
// before 3.14 ends that thread by pthread_exit(), which must not pass through the destructors of C++ callers.
// So the thread stays here until the process is gone, as newer versions have it.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) ::pause();
    }
  }

 private:
  PyThreadState* state_;
};

void bind_dns(pybind11::module_& module);
void bind_switch(pybind11::module_& module);

}  // namespace fastpath::engine
