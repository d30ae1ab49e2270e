// Launches of the spectra kernels on a GPU, free of CUDA's own types.
#pragma once

namespace geomfast {

// Pointers are to device memory, doubles throughout.
struct CudaSpectraJob {
  double* gram;       // (batch, n, n), row-major, whole or its lower triangle (see below); used up
  long batch;
  int n;
  double eps;         // added to every p of RankMe
  double* values;     // (batch, n): singular values, descending
  double* rankme;     // (batch), or null
  double* workspace;  // cuda_spectra_workspace doubles
  void* stream;       // a cudaStream_t
};

// How matrices of side n are reduced on a device: in a block's shared memory, where only the lower
// triangle is read, or by a cluster of blocks in global memory, which needs the whole matrix.
struct CudaSpectraPlan {
  int groups;   // shares of one row's work
  int threads;  // per block
  int blocks;   // per matrix
  long shared;  // bytes per block
  bool in_shared_memory;
  const char* error;  // null, or what CUDA said
};

CudaSpectraPlan cuda_spectra_plan(int device, long batch, int n);

// Doubles of workspace for a batch.
long cuda_spectra_workspace(const CudaSpectraPlan& plan, long batch, int n);

// Queues the kernels on the stream of the current device and returns at once. Null, or what went
// wrong with the launch.
const char* cuda_spectra(const CudaSpectraJob& job, const CudaSpectraPlan& plan);

// Number of devices; error is null, or why there are none.
int cuda_device_count(const char** error);

}  // namespace geomfast
