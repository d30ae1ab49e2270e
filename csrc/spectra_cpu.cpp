// Singular values on the CPU: choice of the instruction set, threads over matrices, final sort.
#include "spectra_cpu.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "isa.h"
#include "workers.h"

namespace geomfast {
namespace {

const SpectraKernel* const kKernels[] = {
#ifndef GEOMFAST_NO_X86
    &spectra_avx512, &spectra_avx2,
#endif
    &spectra_portable};

long divide_up(long x, long by) { return (x + by - 1) / by; }

void finish(const SpectraJob& job, long index, long n) {
  double* values = job.out + index * n;
  for (long i = 0; i < n; ++i) {
    values[i] = std::ldexp(std::sqrt(std::max(values[i], 0.0)), job.exponent[index]);
  }
  std::sort(values, values + n, std::greater<double>());
}

}  // namespace

const SpectraKernel* spectra_kernel(const char* isa) {
  return kernel_for_isa(kKernels, isa);
}

void singular_values(SpectraJob job, const SpectraKernel& kernel, int threads) {
  const long n = std::min(job.rows, job.cols);
  std::vector<int> exponent(job.batch, 0);
  job.exponent = exponent.data();
  const long workers = std::clamp<long>(threads, 1, job.batch);
  // Groups of one size that fill the lanes of the eigenvalue stage and share out evenly.
  const long rounds = divide_up(job.batch, kernel.lanes * workers);
  const long group = divide_up(job.batch, rounds * workers);
  const std::size_t bytes = kernel.workspace(job.rows, job.cols);
  std::vector<AlignedBytes> memory;
  for (long i = 0; i < workers; ++i) memory.push_back(aligned_bytes(bytes));
  Workers::run(workers, [&](Workers& sharing, long worker) {
    sharing.share(divide_up(job.batch, group), [&](long i) {
      const long first = i * group, count = std::min(group, job.batch - first);
      kernel.run(job, first, count, memory[worker].get());
      for (long k = first; k < first + count; ++k) {
        // A matrix that failed has no values: sorting what is there instead could read anywhere.
        if (job.status[k] == kOk) finish(job, k, n);
      }
    });
  });
}

}  // namespace geomfast
