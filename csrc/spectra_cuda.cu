// Spectra of batches of matrices on a GPU: the kernels around spectra_team.h, and their launches.
#include "spectra_cuda.h"

#include <cuda_runtime.h>

#include "spectra_team.h"

namespace geomfast {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostGroups = 4;          // in shared memory: more would wait for the same banks
constexpr int kClusterThreads = 512;
constexpr int kMostClusterGroups = 16;
constexpr int kMostBlocks = 8;          // of a portable cluster
constexpr long kPerProcessor = 2;       // blocks of clusters on one multiprocessor
constexpr int kScratch = 64;            // two sets of one part per warp
constexpr int kStep = 4;                // scalars of a step; what follows is aligned to 16 bytes
static_assert(sizeof(Step) <= kStep * sizeof(double) && sizeof(Pair) == 2 * sizeof(double));

__host__ __device__ constexpr int round_up(int x, int to) { return (x + to - 1) / to * to; }

// Doubles of shared memory of reduce_in_shared_memory.
constexpr long shared_doubles(long n, int groups) {
  return kScratch + kStep + 2 * n + groups * n + n * (n + 1) / 2;
}

// Doubles of global memory per matrix of reduce_in_global_memory, an even number: pairs are read 16
// bytes at a time.
__host__ __device__ constexpr long cluster_doubles(long n, int groups) {
  return 2 * kMostBlocks + kStep + 2 * n + groups * n;
}

// Bytes of shared memory of values_of_tridiagonal.
long bisection_bytes(int n) { return 8L * kScratch + 16L * sturm_rows(n); }

// Scalars, pairs and partial sums from `memory` on.
__device__ Shared shared_at(double* memory, int n) {
  auto* pairs = reinterpret_cast<Pair*>(memory + kStep);
  return {pairs, memory + kStep + 2 * n, reinterpret_cast<Step*>(memory)};
}

// One matrix per block: its lower triangle is copied, packed, into shared memory and stays there.
__global__ void __launch_bounds__(kMostThreads)
    reduce_in_shared_memory(const double* gram, int n, int groups, double* d, double* e2) {
  extern __shared__ __align__(16) double memory[];
  const Shared shared = shared_at(memory + kScratch, n);
  const Packed triangle{shared.partial + groups * n};
  const long matrix = blockIdx.x;
  const double* source = gram + matrix * n * n;
  BlockTeam team(memory);
  team.each([&](int thread) {
    for (int i = thread / 32; i < n; i += team.size / 32) {
      double* row = triangle.row(i);
      for (int j = thread % 32; j <= i; j += 32) row[j] = source[i * n + j];
    }
  });
  tridiagonalise(team, triangle, n, groups, shared, d + matrix * n, e2 + matrix * n);
}

// One matrix per cluster, in place. The plan counts on two blocks to a multiprocessor, and registers
// must leave room for them.
__global__ void __launch_bounds__(kClusterThreads, kPerProcessor)
    reduce_in_global_memory(double* gram, int n, int groups, int blocks, double* workspace,
                            double* d, double* e2) {
  __shared__ double scratch[kClusterThreads / 32];
  const long matrix = blockIdx.x / blocks;
  double* slots = workspace + matrix * cluster_doubles(n, groups);
  ClusterTeam team(scratch, slots);
  tridiagonalise(team, Square{gram + matrix * n * n, n}, n, groups,
                 shared_at(slots + 2 * kMostBlocks, n), d + matrix * n, e2 + matrix * n);
}

// One matrix per block, one eigenvalue per thread at a time.
__global__ void __launch_bounds__(kMostThreads)
    values_of_tridiagonal(const double* d, const double* e2, int n, double eps, double* values,
                          double* rankme) {
  extern __shared__ __align__(16) double memory[];
  auto* rows = reinterpret_cast<SturmRow*>(memory + kScratch);
  const long matrix = blockIdx.x;
  BlockTeam team(memory);
  team.each([&](int thread) {
    for (int i = thread; i < n; i += team.size) {
      rows[i] = {d[matrix * n + i], e2[matrix * n + i]};
    }
  });
  singular_values(team, rows, n, eps, values + matrix * n,
                  rankme == nullptr ? nullptr : rankme + matrix);
}

// Null, or what the error says. It is cleared: the next call must not find it again.
const char* message(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  static_cast<void>(cudaGetLastError());
  return cudaGetErrorString(error);
}

// Shared memory above 48 KiB has to be asked for, once per kernel and device; asking is cheap.
template <class Kernel>
cudaError_t allow_shared(Kernel kernel, long bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

}  // namespace

CudaSpectraPlan cuda_spectra_plan(int device, long batch, int n) {
  CudaSpectraPlan plan{};
  int limit = 0, processors = 0, major = 0;
  for (const auto& [value, attribute] :
       {std::pair{&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin},
        std::pair{&processors, cudaDevAttrMultiProcessorCount},
        std::pair{&major, cudaDevAttrComputeCapabilityMajor}}) {
    plan.error = message(cudaDeviceGetAttribute(value, attribute, device));
    if (plan.error != nullptr) return plan;
  }
  const int rows = round_up(n, 32);
  for (int groups = kMostGroups; groups >= 1; --groups) {
    const long bytes = 8 * shared_doubles(n, groups);
    if (rows * groups > kMostThreads || bytes > limit) continue;
    plan.groups = groups;
    plan.threads = rows * groups;
    plan.blocks = 1;
    plan.shared = bytes;
    plan.in_shared_memory = true;
    return plan;
  }
  if (bisection_bytes(n) > limit) {
    plan.error = "the matrix is too large for the bisection kernel";
    return plan;
  }
  // As many blocks per matrix as the device has room for.
  plan.blocks = 1;
  while (major >= 9 && 2 * plan.blocks <= kMostBlocks &&
         batch * 2 * plan.blocks <= kPerProcessor * processors) {
    plan.blocks *= 2;
  }
  plan.threads = kClusterThreads;
  plan.groups = kMostClusterGroups;
  return plan;
}

long cuda_spectra_workspace(const CudaSpectraPlan& plan, long batch, int n) {
  return batch * (2L * n + (plan.in_shared_memory ? 0 : cluster_doubles(n, plan.groups)));
}

const char* cuda_spectra(const CudaSpectraJob& job, const CudaSpectraPlan& plan) {
  const auto stream = static_cast<cudaStream_t>(job.stream);
  const int n = job.n;
  double *d = job.workspace, *e2 = d + job.batch * n, *rest = e2 + job.batch * n;
  const auto batch = static_cast<unsigned>(job.batch);
  cudaError_t error = cudaSuccess;
  if (plan.in_shared_memory) {
    error = allow_shared(reduce_in_shared_memory, plan.shared);
    if (error != cudaSuccess) return message(error);
    reduce_in_shared_memory<<<batch, plan.threads, plan.shared, stream>>>(job.gram, n, plan.groups,
                                                                          d, e2);
    error = cudaGetLastError();
  } else {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = plan.blocks;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t launch{};
    launch.gridDim = dim3(batch * plan.blocks);
    launch.blockDim = dim3(plan.threads);
    launch.stream = stream;
    launch.attrs = &cluster;
    launch.numAttrs = plan.blocks > 1 ? 1 : 0;
    error = cudaLaunchKernelEx(&launch, reduce_in_global_memory, job.gram, n, plan.groups,
                               plan.blocks, rest, d, e2);
  }
  if (error != cudaSuccess) return message(error);
  const long bytes = bisection_bytes(n);
  error = allow_shared(values_of_tridiagonal, bytes);
  if (error != cudaSuccess) return message(error);
  const int threads = n < kMostThreads ? round_up(n, 32) : kMostThreads;
  values_of_tridiagonal<<<batch, threads, bytes, stream>>>(d, e2, n, job.eps, job.values,
                                                           job.rankme);
  return message(cudaGetLastError());
}

int cuda_device_count(const char** error) {
  int count = 0;
  const cudaError_t outcome = cudaGetDeviceCount(&count);
  *error = message(outcome);
  return outcome == cudaSuccess ? count : 0;
}

}  // namespace geomfast
