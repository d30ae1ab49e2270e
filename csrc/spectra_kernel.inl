// The whole CPU kernel, compiled once per instruction set by spectra_<isa>.cpp.
//
// Only internal linkage and no std:: templates here: a template instantiated with AVX-512 flags
// may be the copy that the linker keeps for everyone.
#include "simd.h"
#include "spectra.h"
#include "spectra_cpu.h"

#include "gram.inl"
#include "ql.inl"
#include "tridiagonal.inl"

namespace {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  typedef int Int __attribute__((may_alias));
  static constexpr Int kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;
};
template <>
struct Bits<double> {
  typedef long long Int __attribute__((may_alias));
  static constexpr Int kMagnitude = 0x7fffffffffffffffLL, kInfinity = 0x7ff0000000000000LL;
};

// The largest magnitude, or a non-finite value if there is one. Magnitudes order like their bits,
// with infinity and NaN above all numbers: one integer maximum finds both.
template <class T>
double largest_magnitude(const T* x, long rows, long cols, long stride) {
  using Int = typename Bits<T>::Int;
  Int largest = 0;
  for (long i = 0; i < rows; ++i) {
    const Int* row = reinterpret_cast<const Int*>(x + i * stride);
    for (long j = 0; j < cols; ++j) {
      const Int bits = row[j] & Bits<T>::kMagnitude;
      largest = bits > largest ? bits : largest;
    }
  }
  if (largest >= Bits<T>::kInfinity) return __builtin_inf();
  T value;
  __builtin_memcpy(&value, &largest, sizeof(T));
  return static_cast<double>(value);
}

struct Workspace {
  long n, padded, ld;
  double *gram, *packed, *vectors, *d, *e2;

  Workspace(long rows, long cols, void* memory) {
    n = rows < cols ? rows : cols;
    padded = round_up(n, kPanel);
    // Rows a multiple of 512 bytes apart would compete for the same cache sets.
    ld = padded % 64 == 0 ? padded + 8 : padded;
    gram = static_cast<double*>(memory);
    packed = gram + round_up(padded * ld, 8);
    vectors = packed + round_up(padded * kBlock, 8);
    d = vectors + round_up(4 * round_up(n, kWidth), 8);
    e2 = d + n * kLanes;
  }
  long bytes() const { return static_cast<long>(sizeof(double)) * (e2 + n * kLanes - gram); }
};

long workspace_bytes(long rows, long cols) {
  return Workspace(rows, cols, nullptr).bytes();
}

template <class T>
void reduce(const geomfast::SpectraJob& job, long index, long lane, const Workspace& space) {
  const T* x = static_cast<const T*>(job.data) + index * job.batch_stride;
  const double largest = largest_magnitude(x, job.rows, job.cols, job.row_stride);
  if (largest == __builtin_inf()) {
    job.status[index] = geomfast::kNotFinite;
    return;
  }
  int exponent = 0;
  if (largest > 0.0) __builtin_frexp(largest, &exponent);
  // Within these bounds 2^-exponent is a normal number; what stays beyond them is harmless.
  exponent = exponent < -1000 ? -1000 : exponent > 1000 ? 1000 : exponent;
  job.exponent[index] = exponent;
  gram_matrix(x, job.rows, job.cols, job.row_stride, __builtin_ldexp(1.0, -exponent),
              space.packed, space.gram, space.ld);
  tridiagonalise(space.gram, space.ld, space.n, space.vectors, space.d + lane, space.e2 + lane,
                 kLanes);
}

void run(const geomfast::SpectraJob& job, long first, long count, void* memory) {
  const Workspace space(job.rows, job.cols, memory);
  for (long i = 0; i < 2 * space.n * kLanes; ++i) space.d[i] = 0.0;
  for (long t = 0; t < count; ++t) {
    job.status[first + t] = geomfast::kOk;
    if (job.dtype == geomfast::DType::kFloat32) {
      reduce<float>(job, first + t, t, space);
    } else {
      reduce<double>(job, first + t, t, space);
    }
  }
  double* out = job.out + first * space.n;
  const bool converged = ql_eigenvalues(space.d, space.e2, space.n, count, out);
  for (long t = 0; t < count; ++t) {
    if (!converged && job.status[first + t] == geomfast::kOk) {
      job.status[first + t] = geomfast::kNotConverged;
    }
  }
}

}  // namespace

namespace geomfast {
extern const SpectraKernel GEOMFAST_JOIN(spectra_, GEOMFAST_ISA_NAME);
const SpectraKernel GEOMFAST_JOIN(spectra_, GEOMFAST_ISA_NAME) = {
    GEOMFAST_STRING(GEOMFAST_ISA_NAME), kLanes, workspace_bytes, run};
}  // namespace geomfast
