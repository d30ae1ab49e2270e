// Householder tridiagonalisation of a symmetric matrix, one pass over the matrix per row.
//
// Rows are eliminated from the last to the first, so that every row starts at an aligned column 0.
// The rank-two update of one elimination and the product A u of the next are one pass: the row
// that defines u is updated ahead of the rest. The diagonal kWidth x kWidth blocks are held in
// full, which leaves no masked edge: inside them a row is multiplied by u, below them both the row
// and its mirror image are.

namespace {

// Updates kReduceRows rows left of the diagonal block and through it, and multiplies by u.
// Adds the mirrored products to `product`, leaves each row's own (unsummed) in `own`.
GEOMFAST_INLINE void update_rows(double* a, long ld, long first_row, long diagonal,
                                 const double* v, const double* w, const double* u,
                                 double* product, Vec* own) {
  Vec vi[kReduceRows], wi[kReduceRows], ui[kReduceRows], acc[kReduceRows];
#pragma GCC unroll 4
  for (int r = 0; r < kReduceRows; ++r) {
    vi[r] = broadcast(v[first_row + r]);
    wi[r] = broadcast(w[first_row + r]);
    ui[r] = broadcast(u[first_row + r]);
    acc[r] = Vec{};
  }
  double* row = a + first_row * ld;
  for (long j = 0; j < diagonal; j += kWidth) {
    const Vec vj = load(v + j), wj = load(w + j), uj = load(u + j);
    Vec mirrored = load(product + j);
#pragma GCC unroll 4
    for (int r = 0; r < kReduceRows; ++r) {
      const Vec x = fnma(wi[r], vj, fnma(vi[r], wj, load(row + r * ld + j)));
      store(row + r * ld + j, x);
      acc[r] = fma(x, uj, acc[r]);
      mirrored = fma(x, ui[r], mirrored);
    }
    store(product + j, mirrored);
  }
  const Vec vj = load(v + diagonal), wj = load(w + diagonal), uj = load(u + diagonal);
#pragma GCC unroll 4
  for (int r = 0; r < kReduceRows; ++r) {
    const Vec x = fnma(wi[r], vj, fnma(vi[r], wj, load(row + r * ld + diagonal)));
    store(row + r * ld + diagonal, x);
    own[r] = fma(x, uj, acc[r]);
  }
}

// A -= v w^T + w v^T on the leading m x m block, and product = A u for the updated A.
void update_and_multiply(double* a, long ld, long m, const double* v, const double* w,
                         const double* u, double* product) {
  const long end = round_up(m, kWidth);
  for (long i = 0; i < end; i += kWidth) store(product + i, Vec{});
  for (long i = 0; i < end; i += kWidth) {
    Vec own[kWidth];
#pragma GCC unroll 4
    for (int r = 0; r < kWidth; r += kReduceRows) {
      update_rows(a, ld, i + r, i, v, w, u, product, own + r);
    }
    store(product + i, load(product + i) + sums(own));
  }
}

// Overwrites a. Writes diagonal[i * step] for i < n and squared off-diagonals[i * step] for
// i < n - 1 (and zero at n - 1). `work` holds 4 * round_up(n, kWidth) doubles.
void tridiagonalise(double* a, long ld, long n, double* work, double* diagonal,
                    double* off_squared, long step) {
  const long padded = round_up(n, kWidth);
  double *v = work, *w = work + padded, *u = work + 2 * padded, *product = work + 3 * padded;
  for (long i = 0; i < 4 * padded; ++i) work[i] = 0.0;
  off_squared[(n - 1) * step] = 0.0;
  for (long m = n - 1; m >= 0; --m) {
    double* row = a + m * ld;
    const long end = round_up(m + 1, kWidth);
    const Vec vm = broadcast(v[m]), wm = broadcast(w[m]);
    Vec squares{};
    for (long j = 0; j < end; j += kWidth) {
      const Vec x = fnma(wm, load(v + j), fnma(vm, load(w + j), load(row + j)));
      store(row + j, x);
      store(u + j, x);
    }
    diagonal[m * step] = row[m];
    if (m == 0) break;
    for (long j = m - 1; j < end; ++j) u[j] = 0.0;
    for (long j = 0; j < end; j += kWidth) squares = fma(load(u + j), load(u + j), squares);
    const Householder reflection = householder(row[m - 1], sum(squares));
    off_squared[(m - 1) * step] = reflection.norm_squared;
    if (reflection.identity) {
      for (long j = 0; j < end; ++j) u[j] = 0.0;
    } else {
      u[m - 1] = reflection.pivot;
    }
    update_and_multiply(a, ld, m, v, w, u, product);
    const double inverse = reflection.identity ? 0.0 : 1.0 / reflection.h;
    for (long j = m; j < end; ++j) product[j] = 0.0;
    Vec dot{};
    for (long j = 0; j < end; j += kWidth) dot = fma(load(u + j), load(product + j), dot);
    const Vec half = broadcast(0.5 * sum(dot) * inverse * inverse), scale = broadcast(inverse);
    for (long j = 0; j < end; j += kWidth) {
      store(w + j, fnma(half, load(u + j), scale * load(product + j)));
    }
    double* previous = v;
    v = u;
    u = previous;
  }
}

}  // namespace
