// Numerical core of the singular spectra: the scalar arithmetic that every device shares.
//
// Header only, free of torch and of the C++ library, so that a CUDA kernel and the CPU tests run
// the same lines. `static` is essential: the header is compiled with several instruction sets into
// one library, and a function with external linkage could be picked from the wrong one.
#pragma once

#if defined(__CUDACC__)
#define GEOMFAST_HD __host__ __device__ static inline
GEOMFAST_HD double square_root(double x) { return sqrt(x); }
GEOMFAST_HD double logarithm(double x) { return log(x); }
GEOMFAST_HD double exponential(double x) { return exp(x); }
#else
#define GEOMFAST_HD static inline __attribute__((always_inline))
GEOMFAST_HD double square_root(double x) { return __builtin_sqrt(x); }
GEOMFAST_HD double logarithm(double x) { return __builtin_log(x); }
GEOMFAST_HD double exponential(double x) { return __builtin_exp(x); }
#endif

// Scalars of the Householder reflection H = I - u u^T / h that maps (rest, alpha) to (0, -+norm).
// u equals the mapped vector but for its last entry, which becomes `pivot`.
struct Householder {
  double pivot;     // last entry of u
  double shift;     // pivot - alpha, exactly: the norm with alpha's sign
  double h;         // u.u / 2
  double norm_squared;
  bool identity;    // nothing to eliminate: skip the reflection
};

// `rest_squared` is the sum of squares of the entries to eliminate. Below `negligible` they are
// dropped: with entries of order one that moves an eigenvalue by less than 1e-100.
GEOMFAST_HD Householder householder(double alpha, double rest_squared) {
  const double negligible = 1e-200;
  Householder out;
  out.norm_squared = alpha * alpha + rest_squared;
  out.identity = rest_squared <= negligible;
  const double norm = square_root(out.norm_squared);
  out.shift = alpha < 0.0 ? -norm : norm;  // same sign: no cancellation in the pivot
  out.pivot = alpha + out.shift;
  out.h = out.norm_squared + alpha * out.shift;
  return out;
}

// Wilkinson's shift: the eigenvalue of [[d0, e], [e, d1]] that is closer to d0; e_squared > 0.
GEOMFAST_HD double wilkinson_shift(double d0, double d1, double e_squared) {
  const double e = square_root(e_squared);
  const double ratio = (d1 - d0) / (2.0 * e);
  const double root = square_root(ratio * ratio + 1.0);
  return d0 - e / (ratio + (ratio < 0.0 ? -root : root));
}

// State carried from row to row of one root-free QL sweep. V is a double or a vector of lanes.
template <class V>
struct QlState {
  V gamma;  // shifted pivot of the row below
  V p;      // gamma^2 / c: squared pivot before the rotation
  V s;      // squared sine of the last rotation
};

// Pivots below this are raised to it, which keeps every quotient finite. Matrices are scaled to
// entries of order one, so that the change is far below rounding.
#define GEOMFAST_QL_SMALLEST_PIVOT 1e-30

// One row of the Pal-Walker-Kahan sweep (Parlett, The Symmetric Eigenvalue Problem, section 8.15;
// LAPACK dsterf): c = p / r, s = e2 / r, gamma = c (alpha - sigma) - s gamma, p = gamma^2 / c.
// All quotients come from one division by p r, with the numerators ready before it ends: the
// latency of this chain is what a sweep costs. Reads the diagonal `alpha` and the squared
// off-diagonal `e2` of row i, gives the new values of row i + 1.
template <class V>
GEOMFAST_HD void ql_step(QlState<V>& state, V alpha, V e2, V sigma, V& new_d, V& new_e2) {
  const V p = state.p;
  const V r = p + e2;
  const V inverse = 1.0 / (p * r);
  const V numerator = p * (p * (alpha - sigma) - e2 * state.gamma);
  V gamma = numerator * inverse;
  V square = gamma * gamma;
  const V floor = V{} + GEOMFAST_QL_SMALLEST_PIVOT;
  const auto tiny = square < floor * floor;
  gamma = tiny ? floor : gamma;
  square = tiny ? floor * floor : square;
  new_e2 = state.s * r;
  new_d = state.gamma + (alpha - gamma);
  state.gamma = gamma;
  state.p = square * (r * r * inverse);
  state.s = e2 * p * inverse;
}
