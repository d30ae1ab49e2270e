// Which instruction sets the processor runs, and the kernel to use for one.
#pragma once

#include <cstring>

namespace geomfast {

// Whether code of kernel files named `isa` (avx512, avx2, portable) runs here.
bool isa_runs(const char* isa);

// The kernel for isa out of all that were built, best first; "" for the best one that runs here.
// Null if unknown or not runnable here.
template <class Kernels>
auto kernel_for_isa(const Kernels& kernels, const char* isa) {
  for (const auto* kernel : kernels) {
    if (isa_runs(kernel->name) && (*isa == '\0' || std::strcmp(isa, kernel->name) == 0)) {
      return kernel;
    }
  }
  return static_cast<decltype(&*kernels[0])>(nullptr);
}

}  // namespace geomfast
