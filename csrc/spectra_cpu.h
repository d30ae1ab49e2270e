// What the dispatcher and the per-instruction-set kernels of the singular spectra share.
#pragma once

namespace geomfast {

enum class DType : int { kFloat32 = 0, kFloat64 = 1 };

enum Status : unsigned char { kOk = 0, kNotFinite = 1, kNotConverged = 2 };

// A batch of matrices with contiguous rows; strides in elements.
struct SpectraJob {
  const void* data;
  DType dtype;
  long batch, rows, cols;
  long batch_stride, row_stride;
  double* out;     // (batch, min(rows, cols)): receives eigenvalues of the scaled Gram matrix
  int* exponent;   // (batch): singular value = sqrt(eigenvalue) * 2^exponent
  Status* status;  // (batch)
};

// One instruction set's kernel. `run` handles matrices [first, first + count), count <= lanes, in
// `workspace` bytes aligned to 64.
struct SpectraKernel {
  const char* name;
  int lanes;
  long (*workspace)(long rows, long cols);
  void (*run)(const SpectraJob& job, long first, long count, void* workspace);
};

extern const SpectraKernel spectra_avx512;
extern const SpectraKernel spectra_avx2;
extern const SpectraKernel spectra_portable;

// The kernel to use; isa is "" for the best one here. Null if unknown or not runnable here.
const SpectraKernel* spectra_kernel(const char* isa);

// Singular values, descending, into job.out; fills job.status. Job.exponent is ignored.
void singular_values(SpectraJob job, const SpectraKernel& kernel, int threads);

}  // namespace geomfast
