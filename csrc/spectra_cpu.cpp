// Singular values on the CPU: choice of the instruction set, threads over matrices, final sort.
#include "spectra_cpu.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace geomfast {
namespace {

constexpr std::align_val_t kAlignment{64};

struct AlignedDelete {
  void operator()(char* memory) const { ::operator delete(memory, kAlignment); }
};
using AlignedBytes = std::unique_ptr<char, AlignedDelete>;

bool runnable(const SpectraKernel& kernel) {
#ifndef GEOMFAST_NO_X86
  __builtin_cpu_init();
  if (&kernel == &spectra_avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
  if (&kernel == &spectra_avx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
#endif
  return &kernel == &spectra_portable;
}

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
  for (const SpectraKernel* kernel : kKernels) {
    if (runnable(*kernel) && (*isa == '\0' || std::strcmp(isa, kernel->name) == 0)) return kernel;
  }
  return nullptr;
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
  for (long i = 0; i < workers; ++i) {
    memory.emplace_back(static_cast<char*>(::operator new(bytes, kAlignment)));
  }
  std::atomic<long> next{0};
  const auto work = [&](void* workspace) {
    for (long first; (first = next.fetch_add(group)) < job.batch;) {
      const long count = std::min(group, job.batch - first);
      kernel.run(job, first, count, workspace);
      for (long i = first; i < first + count; ++i) {
        // A matrix that failed has no values: sorting what is there instead could read anywhere.
        if (job.status[i] == kOk) finish(job, i, n);
      }
    }
  };
  std::vector<std::thread> others;
  for (long i = 1; i < workers; ++i) {
    try {
      others.emplace_back(work, memory[i].get());
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those there are share the work
    }
  }
  work(memory[0].get());
  for (std::thread& other : others) other.join();
}

}  // namespace geomfast
