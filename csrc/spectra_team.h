// Spectra of one matrix by a team of threads: Householder tridiagonalisation, then bisection.
//
// The same recurrences as tridiagonal.inl (rows eliminated from the last to the first, the
// rank-two update of one step fused with the product of the next), shared out among threads such
// that every result has one owner: sums come out the same on every run.
#pragma once

#include "spectra.h"
#include "sturm.h"
#include "team.h"

namespace geomfast {

// Where the matrix lies; offsets fit an int (n is below 15,000 on any GPU: bisection needs rows of
// the tridiagonal form in shared memory).
//   Packed: the lower triangle, row after row; small enough for a GPU's shared memory. A thread
//     walks along its own row: rows i, i + 1, ... start i (i + 1) / 2 entries in, and these
//     triangular numbers hit all 16 banks for any 16 aligned rows, so that nothing collides.
//   Square: all n x n entries, in global memory. A thread walks down its own column, which by
//     symmetry is its row, while neighbours read neighbours.
struct Packed {
  double* a;
  GEOMFAST_TEAM double* row(int i) const { return a + ((i * (i + 1)) >> 1); }
  // a[i][column] for i <= column, of which the lower triangle holds the mirror image.
  GEOMFAST_TEAM double mirrored(int i, int column) const { return row(column)[i]; }
};
struct Square {
  double* a;
  int n;
  GEOMFAST_TEAM double* row(int i) const { return a + i * n; }
  GEOMFAST_TEAM double mirrored(int i, int column) const { return row(column)[i]; }
};

// Entries of both vectors of a rank-two update: one 16-byte load.
struct alignas(16) Pair {
  double v, w;
};

// Scalars of one step.
struct Step {
  double alpha;    // last entry of the row before its reflection
  double shift;    // and what the reflection adds to it; 0 if there is nothing to eliminate
  double inverse;  // 1 / h, 0 if there is nothing to eliminate
};

// What the threads share besides the matrix: n pairs, most_groups * n doubles, one step.
struct Shared {
  Pair* pairs;
  double* partial;
  Step* step;
};

// How threads share rows: thread t serves row t % rows (then + rows, ...) and, of what that row
// needs, the part t / rows of `groups`. Lanes of one warp belong to one group.
struct Share {
  int rows, groups;
  int reciprocal;  // of rows / 32, times 2^16

  // t / rows by a product, exact up to 8192 threads: both are whole warps below 256.
  GEOMFAST_TEAM int group(int thread) const { return (thread / 32 * reciprocal) >> 16; }
};

// Threads beyond rows * groups idle. Rows in whole warps; as many groups as there are threads for.
GEOMFAST_TEAM Share share(int n, int threads, int most_groups) {
  const int whole = (n + 31) / 32 * 32;
  const int rows = whole < threads ? whole : threads / 32 * 32;
  const int groups = threads / rows;
  return {rows, groups < most_groups ? groups : most_groups, 65536 / (rows / 32) + 1};
}

// f(group, row) for the rows below m, each by the threads that serve it; before(thread) first.
template <class Team, class Before, class F>
GEOMFAST_TEAM void each_share(Team& team, Share to, int m, Before before, F f) {
  team.each([&](int thread) {
    before(thread);
    const int group = to.group(thread);
    if (group >= to.groups) return;
    for (int i = thread - group * to.rows; i < m; i += to.rows) f(group, i);
  });
}

// Below, a group takes four neighbouring columns at a time: their offsets are constants of the
// loads, and all four loads are on their way before the first store, which the compiler may not
// move them across.

// a -= v w^T + w v^T for the leading m x m block, partial sums of a u to partial[group * n + row].
template <class Team, class Before>
GEOMFAST_TEAM void update_and_multiply(Team& team, const Packed& a, int n, int m, Share to,
                                       const Shared& shared, const double* u, Before before) {
  // Left of the diagonal and on it: update, and multiply row i.
  each_share(team, to, m, before, [&](int group, int i) {
    double* row = a.row(i);
    const Pair own = shared.pairs[i];
    double sum = 0.0;
    const auto columns = [&](int first, int count) {
      double x[4] = {}, factor[4] = {};
      Pair pair[4] = {};
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (k >= count) break;
        x[k] = row[first + k];
        pair[k] = shared.pairs[first + k];
        factor[k] = u[first + k];
      }
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (k >= count) break;
        x[k] = x[k] - own.v * pair[k].w - own.w * pair[k].v;
        row[first + k] = x[k];
        sum += x[k] * factor[k];
      }
    };
    const int whole = (i + 1) / 4 * 4;
    int first = 4 * group;
    for (; first < whole; first += 4 * to.groups) columns(first, 4);
    if (first == whole) columns(whole, i + 1 - whole);
    shared.partial[group * n + i] = sum;
  });
  // Below the diagonal: column i of the rows that others have updated. All lanes of a warp take the
  // same row, so that they read neighbours and one u.
  each_share(
      team, to, m, [](int) {},
      [&](int group, int i) {
        double sum = shared.partial[group * n + i];
        const int diagonal = i / Team::warp * Team::warp;
        for (int first = diagonal + 4 * group; first < m; first += 4 * to.groups) {
          const double* at = a.row(first) + i;
          double x[4], factor[4];
          const bool all = first >= diagonal + Team::warp && first + 4 <= m;
          if (all) {
            GEOMFAST_UNROLL
            for (int k = 0; k < 4; ++k) {
              x[k] = *at;
              factor[k] = u[first + k];
              at += first + k + 1;
            }
          } else {
            GEOMFAST_UNROLL
            for (int k = 0; k < 4; ++k) {
              const int j = first + k;
              const bool counts = j > i && j < m;
              x[k] = counts ? *at : 0.0;
              factor[k] = counts ? u[j] : 0.0;
              at += j + 1;
            }
          }
          GEOMFAST_UNROLL
          for (int k = 0; k < 4; ++k) sum += x[k] * factor[k];
        }
        shared.partial[group * n + i] = sum;
      });
}

template <class Team, class Before>
GEOMFAST_TEAM void update_and_multiply(Team& team, const Square& a, int n, int m, Share to,
                                       const Shared& shared, const double* u, Before before) {
  each_share(team, to, m, before, [&](int group, int i) {
    const Pair own = shared.pairs[i];
    double sum = 0.0;
    const auto columns = [&](int first, int count) {
      double* at = a.row(first) + i;
      double x[4] = {}, factor[4] = {};
      Pair pair[4] = {};
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (k >= count) break;
        x[k] = at[k * n];
        pair[k] = shared.pairs[first + k];
      }
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (k >= count) break;
        x[k] = x[k] - own.v * pair[k].w - own.w * pair[k].v;
        at[k * n] = x[k];
      }
      // Later than the pairs, in whose registers: all lanes read the same few, which are near.
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (k < count) factor[k] = u[first + k];
      }
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) sum += x[k] * factor[k];
    };
    const int whole = m / 4 * 4;
    int first = 4 * group;
    for (; first < whole; first += 4 * to.groups) columns(first, 4);
    if (first == whole) columns(whole, m - whole);
    shared.partial[group * n + i] = sum;
  });
}

// Overwrites a. Writes the diagonal d[0 .. n) and squared off-diagonals e2[0 .. n - 1), and
// e2[n - 1] = 0.
//
// A step has few phases, since each ends at a barrier: the product with row m needs no reflection
// yet. The reflection changes only the row's last entry, from alpha to its pivot, by `shift`; so
// A u = A row + shift A[:, m - 1], added when the parts of the product are. Its scalars are found
// by one thread meanwhile. And w is found where it is first used, in the next step's first phase.
template <class Team, class Matrix>
GEOMFAST_TEAM void tridiagonalise(Team& team, const Matrix& a, int n, int most_groups,
                                  const Shared& shared, double* d, double* e2) {
  const Share to = share(n, team.size, most_groups);
  Step* step = shared.step;
  team.each([&](int thread) {
    for (int i = thread; i < n; i += team.size) shared.pairs[i] = {0.0, 0.0};
    if (thread == 0) e2[n - 1] = 0.0;
  });
  Parts<Add> dots;
  for (int m = n - 1; m >= 0; --m) {
    // u overwrites row m; v is the u of the step before, in row m + 1. Its w is
    // A v / h - half v, and A v lies in `partial`.
    const bool first = m == n - 1;
    double* u = a.row(m);
    const auto squares = team.gather(m + 1, Add(), [&](int thread) {
      const double* v = first ? u : a.row(m + 1);
      double inverse = 0.0, half = 0.0, vm = 0.0, wm = 0.0;
      if (!first) {
        inverse = step->inverse;
        half = 0.5 * (team.total(dots) * inverse) * inverse;
        vm = v[m];
        wm = inverse * shared.partial[m] - half * vm;
      }
      double sum = 0.0;
      for (int j = thread; j <= m; j += team.size) {
        double x = u[j];
        if (!first) {
          const double vj = v[j], wj = inverse * shared.partial[j] - half * vj;
          x = x - vm * wj - wm * vj;
          u[j] = x;
          shared.pairs[j] = {vj, wj};
        }
        if (j == m) {
          d[m] = x;
        } else if (j == m - 1) {
          step->alpha = x;
        } else {
          sum += x * x;
        }
      }
      return sum;
    });
    if (m == 0) break;
    update_and_multiply(team, a, n, m, to, shared, u, [&](int thread) {
      if (thread != 0) return;  // of the warp whose rows are the shortest
      const Householder reflection = householder(step->alpha, team.total(squares));
      step->shift = reflection.identity ? 0.0 : reflection.shift;
      step->inverse = reflection.identity ? 0.0 : 1.0 / reflection.h;
      e2[m - 1] = reflection.norm_squared;
    });
    dots = team.gather(m, Add(), [&](int thread) {
      const double shift = step->shift;
      double sum = 0.0;
      for (int i = thread; i < m; i += team.size) {
        const double product = combine<4>(shared.partial + i, to.groups, n, Add()) +
                               shift * a.mirrored(i, m - 1);
        shared.partial[i] = product;
        double ui = u[i];
        if (i == m - 1) {
          ui += shift;
          u[i] = ui;
        }
        sum += product * ui;
      }
      return sum;
    });
  }
}

// Singular values, descending, and exp of the entropy of p = values / sum + eps (RankMe), from the
// tridiagonal form of the Gram matrix, whose rows are scaled in place and lengthened to
// `sturm_rows(n)`; `values` may not overlap them. A matrix with NaN or infinity gives NaN
// everywhere, one of zeros gives zeros. `rankme` may be null.
template <class Team>
GEOMFAST_TEAM void singular_values(Team& team, SturmRow* rows, int n, double eps, double* values,
                                   double* rankme) {
  const double trace = team.sum([&](int thread) {
    double sum = 0.0;
    // NaN or infinity off the diagonal counts too: less itself, it is NaN, everything else 0.
    for (int i = thread; i < n; i += team.size) sum += rows[i].d + (rows[i].e2 - rows[i].e2);
    return sum;
  });
  const bool finite = trace - trace == 0.0;
  if (!finite || trace <= 0.0) {
    const double value = finite ? 0.0 : trace - trace;
    team.each([&](int thread) {
      for (int i = thread; i < n; i += team.size) values[i] = value;
      if (thread == 0 && rankme != nullptr) *rankme = value;
    });
    return;
  }
  const double largest = team.largest([&](int thread) {
    double own = 0.0;
    for (int i = thread; i < n; i += team.size) own = rows[i].d > own ? rows[i].d : own;
    return own;
  });
  // Off-diagonals of the size of rounding are dropped, as QL does: left in, they spread eigenvalues
  // that are zero further apart, and half of each pair comes out positive.
  const double rounding = 0x1p-53 * largest;
  const double scale = 0.5 * inverse_power_of_two(trace);  // trace into [1/2, 1)
  team.each([&](int thread) {
    for (int i = thread; i < sturm_rows(n); i += team.size) {
      if (i >= n) {
        rows[i] = sturm_padding();
        continue;
      }
      const double e2 = rows[i].e2;
      const double squared = e2 > rounding * rounding ? e2 * scale * scale : 0.0;
      const double smallest = i < n - 1 ? GEOMFAST_STURM_SMALLEST_E2 : 0.0;
      rows[i].e2 = squared > smallest ? squared : smallest;
      rows[i].d *= scale;
    }
  });
  const double back = square_root(1.0 / scale);
  const double sum = team.sum([&](int thread) {
    double total = 0.0;
    for (int i = thread; i < n; i += team.size) {
      const double value = square_root(bisect_eigenvalue(rows, n, n - 1 - i));
      values[i] = value * back;
      total += value;
    }
    return total;
  });
  if (rankme == nullptr) return;
  const double entropy = team.sum([&](int thread) {
    double total = 0.0;
    for (int i = thread; i < n; i += team.size) {
      total += entropy_term(values[i] / back / sum + eps);
    }
    return total;
  });
  team.each([&](int thread) {
    if (thread == 0) *rankme = exponential(entropy);
  });
}

}  // namespace geomfast
