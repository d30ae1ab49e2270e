// Eigenvalues of a symmetric tridiagonal matrix by bisection, each on its own: what a GPU wants,
// one thread per eigenvalue and no communication. Shared by CUDA and the CPU tests.
#pragma once

#include "spectra.h"

// Off-diagonals (squared) are raised to this: an eigenvalue of a matrix of norm one moves by less
// than 2^-99, and the recurrence below never meets two zeros in a row.
#define GEOMFAST_STURM_SMALLEST_E2 0x1p-200

// Bisection steps from the interval [0, 1]: the last is 2^-60 wide, rounding in the Gram matrix of
// trace one is above 2^-53.
#define GEOMFAST_BISECTIONS 60

// 2^-k for the k that brings |x| into [1, 2); 1 for zero. x is finite.
GEOMFAST_HD double inverse_power_of_two(double x) {
#if defined(__CUDA_ARCH__)
  const long long bits = __double_as_longlong(x);
#else
  long long bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
#endif
  const long long exponent = (bits >> 52) & 0x7ff;
  // Beyond these bounds 2^-k would not be a normal number.
  const long long bounded = exponent < 1 ? 1023 : exponent > 2045 ? 2045 : exponent;
  const long long inverse = (2046 - bounded) << 52;
#if defined(__CUDA_ARCH__)
  return __longlong_as_double(inverse);
#else
  double out;
  __builtin_memcpy(&out, &inverse, sizeof out);
  return out;
#endif
}

// Number of eigenvalues below x of the n x n matrix with diagonal d and squared off-diagonals e2
// (e2[n - 1] is not read), all of order one: the sign changes of the leading minors
//   p_k = (d_k - x) p_{k-1} - e2_{k-1} p_{k-2}
// (Golub and Van Loan, Matrix Computations, section 8.4.1). No division: minors are brought back to
// order one by powers of two, often enough that eight rows can neither overflow nor vanish.
GEOMFAST_HD int sturm_count(const double* d, const double* e2, int n, double x) {
  double before = 0.0, p = 1.0, e2_above = 0.0;
  int count = 0;
  for (int first = 0; first < n; first += 8) {
    const int end = first + 8 < n ? first + 8 : n;
    for (int k = first; k < end; ++k) {
      const double next = (d[k] - x) * p - e2_above * before;
      count += (next < 0.0) != (p < 0.0);  // zero counts as positive, consistently
      before = p;
      p = next;
      e2_above = e2[k];
    }
    const double size_p = p < 0.0 ? -p : p, size_before = before < 0.0 ? -before : before;
    const double scale = inverse_power_of_two(size_p > size_before ? size_p : size_before);
    p *= scale;
    before *= scale;
  }
  return count;
}

// The (index + 1)-th smallest eigenvalue of a positive semi-definite matrix of trace below one.
// What rounding has made negative, or cannot be told from zero, is exactly zero.
GEOMFAST_HD double bisect_eigenvalue(const double* d, const double* e2, int n, int index) {
  double low = 0.0, high = 1.0;
  for (int step = 0; step < GEOMFAST_BISECTIONS; ++step) {
    const double middle = 0.5 * (low + high);
    if (sturm_count(d, e2, n, middle) > index) {
      high = middle;
    } else {
      low = middle;
    }
  }
  return low == 0.0 ? 0.0 : 0.5 * (low + high);
}

// -p log p with its limit at zero.
GEOMFAST_HD double entropy_term(double p) { return p > 0.0 ? -p * logarithm(p) : 0.0; }
