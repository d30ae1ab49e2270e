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
constexpr int kScratch = 64;            // two partial sums per warp
constexpr int kValuesSlack = 8;         // alpha, and to keep what follows it aligned

__host__ __device__ constexpr int round_up(int x, int to) { return (x + to - 1) / to * to; }

// Doubles of shared memory of reduce_in_shared_memory.
constexpr long shared_doubles(long n, int groups) {
  return kScratch + kValuesSlack + n + groups * n + n * (n + 1) / 2;
}

// Doubles of global memory per matrix of reduce_in_global_memory.
__host__ __device__ constexpr long cluster_doubles(long n, int groups) {
  return 2 * kMostBlocks + kValuesSlack + n + groups * n;
}

// One matrix per block: its lower triangle is copied, packed, into shared memory and stays there.
__global__ void __launch_bounds__(kMostThreads)
    reduce_in_shared_memory(const double* gram, int n, int groups, double* d, double* e2) {
  extern __shared__ double memory[];
  double* alpha = memory + kScratch;
  double* w = alpha + kValuesSlack;
  double* partial = w + n;
  const Packed triangle{partial + groups * n};
  const long matrix = blockIdx.x;
  const double* source = gram + matrix * n * n;
  BlockTeam team(memory);
  team.each([&](int thread) {
    for (int i = thread / 32; i < n; i += team.size / 32) {
      for (int j = thread % 32; j <= i; j += 32) {
        triangle.row(i)[j] = source[static_cast<long>(i) * n + j];
      }
    }
  });
  tridiagonalise(team, triangle, n, groups, partial, w, alpha, d + matrix * n, e2 + matrix * n);
}

// One matrix per cluster, in place.
__global__ void __launch_bounds__(kClusterThreads)
    reduce_in_global_memory(double* gram, int n, int groups, int blocks, double* workspace,
                            double* d, double* e2) {
  __shared__ double scratch[kClusterThreads / 32];
  const long matrix = blockIdx.x / blocks;
  double* slots = workspace + matrix * cluster_doubles(n, groups);
  double* alpha = slots + 2 * kMostBlocks;
  double* w = alpha + kValuesSlack;
  ClusterTeam team(scratch, slots);
  tridiagonalise(team, Square{gram + matrix * n * n, n}, n, groups, w + n, w, alpha,
                 d + matrix * n, e2 + matrix * n);
}

// One matrix per block, one eigenvalue per thread at a time.
__global__ void __launch_bounds__(kMostThreads)
    values_of_tridiagonal(const double* d, const double* e2, int n, double eps, double* values,
                          double* rankme) {
  extern __shared__ double memory[];
  double *own_d = memory + kScratch, *own_e2 = own_d + n;
  const long matrix = blockIdx.x;
  BlockTeam team(memory);
  team.each([&](int thread) {
    for (int i = thread; i < n; i += team.size) {
      own_d[i] = d[matrix * n + i];
      own_e2[i] = e2[matrix * n + i];
    }
  });
  singular_values(team, own_d, own_e2, n, eps, values + matrix * n,
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
  if (8 * (kScratch + 2L * n) > limit) {
    plan.error = "the matrix is too large for the bisection kernel";
    return plan;
  }
  // As many blocks per matrix as the device has room for, two to a multiprocessor.
  plan.blocks = 1;
  while (major >= 9 && 2 * plan.blocks <= kMostBlocks &&
         batch * 2 * plan.blocks <= 2L * processors) {
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
  const long bytes = 8 * (kScratch + 2L * n);
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
