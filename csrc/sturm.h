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

// The bits of x that hold its sign and exponent.
GEOMFAST_HD int upper_bits(double x) {
#if defined(__CUDA_ARCH__)
  return __double2hiint(x);
#else
  long long bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits >> 32);
#endif
}

GEOMFAST_HD double from_upper_bits(int upper) {
#if defined(__CUDA_ARCH__)
  return __hiloint2double(upper, 0);
#else
  const long long bits = static_cast<long long>(upper) << 32;
  double out;
  __builtin_memcpy(&out, &bits, sizeof out);
  return out;
#endif
}

// 2^-k for the k that brings the larger of |x| and |y| into [1, 2); 1 for zeros. Both are finite.
GEOMFAST_HD double inverse_power_of_two(double x, double y = 0.0) {
  const int of_x = upper_bits(x) & 0x7ff00000, of_y = upper_bits(y) & 0x7ff00000;
  const int exponent = (of_x > of_y ? of_x : of_y) >> 20;
  // Beyond these bounds 2^-k would not be a normal number.
  const int bounded = exponent < 1 ? 1023 : exponent > 2045 ? 2045 : exponent;
  return from_upper_bits((2046 - bounded) << 20);
}

// One row of a tridiagonal matrix: one 16-byte load.
struct alignas(16) SturmRow {
  double d, e2;  // diagonal, and the squared off-diagonal to the next row; 0 in the last
};

// Rows come in eights. Those that only fill up come after the last and are joined to it by 0:
// their eigenvalues, 2, are above any x that is asked about.
GEOMFAST_HD int sturm_rows(int n) { return (n + 7) / 8 * 8; }
GEOMFAST_HD SturmRow sturm_padding() { return {2.0, 0.0}; }

// Number of eigenvalues below x of the n x n matrix in rows[0 .. sturm_rows(n)), entries of order
// one: the sign changes of the leading minors
//   p_k = (d_k - x) p_{k-1} - e2_{k-1} p_{k-2}
// (Golub and Van Loan, Matrix Computations, section 8.4.1). No division: minors are brought back to
// order one by powers of two, often enough that eight rows can neither overflow nor vanish. A zero
// counts by its sign bit: either way there is one change from the minor before it to the one after.
GEOMFAST_HD int sturm_count(const SturmRow* rows, int n, double x) {
  double before = 0.0, p = 1.0, e2_above = 0.0;
  unsigned count = 0;
  for (int first = 0; first < n; first += 8) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int k = 0; k < 8; ++k) {
      const SturmRow row = rows[first + k];
      const double next = (row.d - x) * p - e2_above * before;
      count += static_cast<unsigned>(upper_bits(next) ^ upper_bits(p)) >> 31;
      before = p;
      p = next;
      e2_above = row.e2;
    }
    const double scale = inverse_power_of_two(p, before);
    p *= scale;
    before *= scale;
  }
  return static_cast<int>(count);
}

// The (index + 1)-th smallest eigenvalue of a positive semi-definite matrix of trace below one.
// What rounding has made negative, or cannot be told from zero, is exactly zero.
GEOMFAST_HD double bisect_eigenvalue(const SturmRow* rows, int n, int index) {
  double low = 0.0, high = 1.0;
  for (int step = 0; step < GEOMFAST_BISECTIONS; ++step) {
    const double middle = 0.5 * (low + high);
    if (sturm_count(rows, n, middle) > index) {
      high = middle;
    } else {
      low = middle;
    }
  }
  return low == 0.0 ? 0.0 : 0.5 * (low + high);
}

// -p log p with its limit at zero.
GEOMFAST_HD double entropy_term(double p) { return p > 0.0 ? -p * logarithm(p) : 0.0; }
