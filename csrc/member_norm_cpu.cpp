// LayerNorm of members on the CPU: choice of the instruction set, threads over members.
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

}  // namespace

const MemberNormKernel* member_norm_kernel(const char* isa) {
  return kernel_for_isa(kKernels, isa);
}

void member_norm(MemberNormJob job, const MemberNormKernel& kernel, int threads) {
  const long worth = std::max(job.members * job.tokens * job.size / kWorthAThread, 1L);
  std::vector<float> part(job.gain_gradient == nullptr ? 0 : job.members * 2 * job.size);
  job.part = part.data();
  Workers::run(std::clamp<long>(threads, 1, worth), [&](Workers& sharing, long) {
    sharing.share(job.members, [&](long i) { kernel.member(job, i); });
  });
}

}  // namespace geomfast
