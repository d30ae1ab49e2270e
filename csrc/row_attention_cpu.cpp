// Attention over short rows on the CPU: choice of the instruction set, threads over rows.
#include "row_attention_cpu.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "workers.h"

namespace geomfast {
namespace {

const RowAttentionKernel* const kKernels[] = {
#ifndef GEOMFAST_NO_X86
    &row_attention_avx512, &row_attention_avx2,
#endif
    &row_attention_portable};

// Fewer numbers of qkv a thread would cost more to start a thread than it saves.
constexpr long kWorthAThread = 1 << 17;

}  // namespace

const RowAttentionKernel* row_attention_kernel(const char* isa) {
  return kernel_for_isa(kKernels, isa);
}

void row_attention(const RowAttentionJob& job, const RowAttentionKernel& kernel, int threads) {
  const long numbers = job.members * job.offsets[job.rows] * 3 * job.heads * job.width;
  const long worth = std::max(numbers / kWorthAThread, 1L);
  const long workers = std::clamp<long>(threads, 1, worth);
  const std::size_t bytes = kernel.scratch(job) * sizeof(float);
  // Before there are threads: out of memory in one of them would end the process.
  std::vector<AlignedBytes> memory;
  for (long i = 0; i < workers; ++i) memory.push_back(aligned_bytes(bytes));
  Workers::run(workers, [&](Workers& sharing, long worker) {
    float* const scratch = reinterpret_cast<float*>(memory[worker].get());
    sharing.share(job.members * job.rows, [&](long i) {
      kernel.row(job, i / job.rows, i % job.rows, scratch);
    });
  });
}

}  // namespace geomfast
