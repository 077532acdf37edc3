// Signals are for the program's own threads: a thread begun while they are blocked never gets one.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace fastpath {

// Blocks all signals in the calling thread, and gives back the mask that it had.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace fastpath
