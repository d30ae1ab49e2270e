// LayerNorm of members on the CPU: choice of the instruction set, threads over blocks of tokens.
#include "member_norm_cpu.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "workers.h"

namespace geomfast {
namespace {

const MemberNormKernel* const kKernels[] = {
#ifndef GEOMFAST_NO_X86
    &member_norm_avx512, &member_norm_avx2,
#endif
    &member_norm_portable};

// Fewer numbers a thread would cost more to start a thread than it saves.
constexpr long kWorthAThread = 1 << 18;

// What one thread takes at a time. Gradients of gain and bias add up by block and then over blocks,
// in an order that does not depend on who did which, and so that many tokens lose few digits.
constexpr long kBlock = 32;

}  // namespace

const MemberNormKernel* member_norm_kernel(const char* isa) {
  return kernel_for_isa(kKernels, isa);
}

void member_norm(const MemberNormJob& job, const MemberNormKernel& kernel, int threads) {
  const long worth = std::max(job.members * job.tokens * job.size / kWorthAThread, 1L);
  const long blocks = (job.tokens + kBlock - 1) / kBlock, numbers = 2 * job.size;
  const bool backward = job.gain_gradient != nullptr;
  std::vector<float> parts(backward ? job.members * blocks * numbers : 0);
  Workers::run(std::clamp<long>(threads, 1, worth), [&](Workers& sharing, long) {
    sharing.share(job.members * blocks, [&](long i) {
      const long first = i % blocks * kBlock, last = std::min(first + kBlock, job.tokens);
      kernel.tokens(job, i / blocks, first, last, backward ? &parts[i * numbers] : nullptr);
    });
    if (!backward) return;
    sharing.share(job.members, [&](long member) {
      float* const of[] = {job.gain_gradient + member * job.gradient_stride,
                           job.bias_gradient + member * job.gradient_stride};
      for (float* total : of) std::fill(total, total + job.size, 0.0f);
      for (long block = member * blocks; block < (member + 1) * blocks; ++block) {
        const float* const part = &parts[block * numbers];
        for (long j = 0; j < job.size; ++j) {
          of[0][j] += part[j];
          of[1][j] += part[job.size + j];
        }
      }
    });
  });
}

}  // namespace geomfast
