#include "fastpath/flow_index.hpp"

namespace fastpath {

#if defined(__x86_64__)
FlowKernel flow_kernel_avx512() noexcept;
#endif

FlowKernel flow_kernel([[maybe_unused]] Isa isa) noexcept {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return flow_kernel_avx512();
#endif
  return {};
}

}  // namespace fastpath
