// Langevin steps on the CPU: choice of the instruction set, threads over blocks of parameters.
#include "sgld_cpu.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "isa.h"
#include "workers.h"

namespace geomfast {
namespace {

const SgldKernel* const kKernels[] = {
#ifndef GEOMFAST_NO_X86
    &sgld_avx512, &sgld_avx2,
#endif
    &sgld_portable};

// What one thread takes at a time; sums are kept by block, so that they do not depend on who did.
constexpr long kBlock = 128 * kGroup;
// Fewer entries a thread would cost more to start a thread than it saves.
constexpr long kWorthAThread = 1 << 17;

SgldRow row_of(const SgldJob& job, long chain) {
  SgldRow row = job.first;
  const long shift = chain * job.size;
  row.weights += shift;
  row.gradients += shift;
  if (row.previous != nullptr) row.previous += shift;
  if (row.velocity != nullptr) row.velocity += shift;
  row.stream.chain += static_cast<unsigned>(chain);
  return row;
}

}  // namespace

const SgldKernel* sgld_kernel(const char* isa) { return kernel_for_isa(kKernels, isa); }

void sgld_step(const SgldJob& job, const SgldKernel& kernel, int threads) {
  const long blocks = (job.size + kBlock - 1) / kBlock;
  std::vector<double> sums(job.chains * blocks * kStatistics, 0.0);
  const long worth = std::max(job.chains * job.size / kWorthAThread, 1L);
  Workers::run(std::clamp<long>(threads, 1, worth), [&](Workers& sharing, long) {
    sharing.share(job.chains * blocks, [&](long i) {
      const long chain = i / blocks, first = i % blocks * kBlock;
      if (job.active != nullptr && !job.active[chain]) return;
      const long last = std::min(first + kBlock, job.size);
      kernel.step(row_of(job, chain), first, last, &sums[i * kStatistics]);
    });
  });
  for (long i = 0; i < job.chains * kStatistics; ++i) {
    const long chain = i / kStatistics;
    double total = 0.0;
    for (long b = 0; b < blocks; ++b) {
      total += sums[(chain * blocks + b) * kStatistics + i % kStatistics];
    }
    const bool active = job.active == nullptr || job.active[chain];
    job.statistics[i] = active ? total : std::numeric_limits<double>::quiet_NaN();
  }
}

}  // namespace geomfast
