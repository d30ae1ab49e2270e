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

// Where the matrix lies.
//   Packed: the lower triangle, row after row; small enough for a GPU's shared memory. A thread
//     walks along its own row: rows i, i + 1, ... start i (i + 1) / 2 entries in, and these
//     triangular numbers hit all 16 banks for any 16 aligned rows, so that nothing collides.
//   Square: all n x n entries, in global memory. A thread walks down its own column, which by
//     symmetry is its row, while neighbours read neighbours.
struct Packed {
  double* a;
  GEOMFAST_TEAM double* row(long i) const { return a + i * (i + 1) / 2; }
};
struct Square {
  double* a;
  long n;
  GEOMFAST_TEAM double* row(long i) const { return a + i * n; }
};

// How threads share rows: thread t serves row t % rows (then + rows, ...) and, of what that row
// needs, the part t / rows of `groups`. Lanes of one warp belong to one group.
struct Share {
  int rows, groups;
};

// Threads beyond rows * groups idle. Rows in whole warps; as many groups as there are threads for.
GEOMFAST_TEAM Share share(int n, int threads, int most_groups) {
  const int whole = (n + 31) / 32 * 32;
  const int rows = whole < threads ? whole : threads / 32 * 32;
  const int groups = threads / rows;
  return {rows, groups < most_groups ? groups : most_groups};
}

// f(group, row) for the rows below m, each by the threads that serve it.
template <class Team, class F>
GEOMFAST_TEAM void each_share(Team& team, Share to, int m, F f) {
  team.each([&](int thread) {
    const int group = thread / to.rows;
    if (group >= to.groups) return;
    for (int i = thread % to.rows; i < m; i += to.rows) f(group, i);
  });
}

// a -= v w^T + w v^T for the leading m x m block (unless first), partial sums of a u to
// partial[group * n + row].
template <class Team>
GEOMFAST_TEAM void update_and_multiply(Team& team, const Packed& a, int n, int m, Share to,
                                       bool first, const double* v, const double* w,
                                       const double* u, double* partial) {
  // Left of the diagonal and on it: update, and multiply row i.
  each_share(team, to, m, [&](int group, int i) {
    double* row = a.row(i);
    const double vi = first ? 0.0 : v[i], wi = first ? 0.0 : w[i];
    double sum = 0.0;
    for (int j = group; j <= i; j += to.groups) {
      double x = row[j];
      if (!first) {
        x = x - vi * w[j] - wi * v[j];
        row[j] = x;
      }
      sum += x * u[j];
    }
    partial[group * n + i] = sum;
  });
  // Below the diagonal: column i of the rows that others have updated. All lanes of a warp take the
  // same row, so that they read neighbours and one u.
  each_share(team, to, m, [&](int group, int i) {
    double sum = partial[group * n + i];
    for (int j = i / Team::warp * Team::warp + group; j < m; j += to.groups) {
      if (j > i) sum += a.row(j)[i] * u[j];
    }
    partial[group * n + i] = sum;
  });
}

template <class Team>
GEOMFAST_TEAM void update_and_multiply(Team& team, const Square& a, int n, int m, Share to,
                                       bool first, const double* v, const double* w,
                                       const double* u, double* partial) {
  each_share(team, to, m, [&](int group, int i) {
    const double vi = first ? 0.0 : v[i], wi = first ? 0.0 : w[i];
    double sum = 0.0;
    // Four loads are on their way before the first store, which the compiler may not move them
    // across: global memory answers late.
    for (int first_j = group; first_j < m; first_j += 4 * to.groups) {
      double x[4];
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        const int j = first_j + k * to.groups;
        x[k] = j < m ? a.row(j)[i] : 0.0;
      }
      GEOMFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        const int j = first_j + k * to.groups;
        if (j >= m) continue;
        if (!first) {
          x[k] = x[k] - vi * w[j] - wi * v[j];
          a.row(j)[i] = x[k];
        }
        sum += x[k] * u[j];
      }
    }
    partial[group * n + i] = sum;
  });
}

// Overwrites a. Writes the diagonal d[0 .. n) and squared off-diagonals e2[0 .. n - 1), and
// e2[n - 1] = 0. `partial` holds groups * n doubles, `w` n, `alpha` one.
template <class Team, class Matrix>
GEOMFAST_TEAM void tridiagonalise(Team& team, const Matrix& a, int n, int most_groups,
                                  double* partial, double* w, double* alpha, double* d,
                                  double* e2) {
  const Share to = share(n, team.size, most_groups);
  for (int m = n - 1; m >= 0; --m) {
    // u overwrites row m; v is the u of the step before, in row m + 1.
    const bool first = m == n - 1;
    double* u = a.row(m);
    const double* v = first ? u : a.row(m + 1);
    const double rest_squared = team.sum([&](int thread) {
      const double vm = first ? 0.0 : v[m], wm = first ? 0.0 : w[m];
      double squares = 0.0;
      for (int j = thread; j <= m; j += team.size) {
        double x = u[j];
        if (!first) x = x - vm * w[j] - wm * v[j];
        u[j] = x;
        if (j == m) {
          d[m] = x;
        } else if (j == m - 1) {
          *alpha = x;
        } else {
          squares += x * x;
        }
      }
      return squares;
    });
    if (m == 0) break;
    const Householder reflection = householder(*alpha, rest_squared);
    team.each([&](int thread) {
      if (thread == 0) e2[m - 1] = reflection.norm_squared;
      if (reflection.identity) {
        for (int j = thread; j < m; j += team.size) u[j] = 0.0;
      } else if (thread == 0) {
        u[m - 1] = reflection.pivot;
      }
    });
    update_and_multiply(team, a, n, m, to, first, v, w, u, partial);
    const double dot = team.sum([&](int thread) {
      double sum = 0.0;
      for (int i = thread; i < m; i += team.size) {
        double product = partial[i];
        for (int group = 1; group < to.groups; ++group) product += partial[group * n + i];
        partial[i] = product;
        sum += product * u[i];
      }
      return sum;
    });
    const double inverse = reflection.identity ? 0.0 : 1.0 / reflection.h;
    const double half = 0.5 * (dot * inverse) * inverse;
    team.each([&](int thread) {
      for (int i = thread; i < m; i += team.size) w[i] = inverse * partial[i] - half * u[i];
    });
  }
  team.each([&](int thread) {
    if (thread == 0) e2[n - 1] = 0.0;
  });
}

// Singular values, descending, and exp of the entropy of p = values / sum + eps (RankMe), from the
// tridiagonal form of the Gram matrix. d and e2 are scaled in place; `values` may not overlap them.
// A matrix with NaN or infinity gives NaN everywhere, one of zeros gives zeros. `rankme` may be null.
template <class Team>
GEOMFAST_TEAM void singular_values(Team& team, double* d, double* e2, int n, double eps,
                                   double* values, double* rankme) {
  const double trace = team.sum([&](int thread) {
    double sum = 0.0;
    for (int i = thread; i < n; i += team.size) sum += d[i];
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
    for (int i = thread; i < n; i += team.size) own = d[i] > own ? d[i] : own;
    return own;
  });
  // Off-diagonals of the size of rounding are dropped, as QL does: left in, they spread eigenvalues
  // that are zero further apart, and half of each pair comes out positive.
  const double rounding = 0x1p-53 * largest;
  const double scale = 0.5 * inverse_power_of_two(trace);  // trace into [1/2, 1)
  team.each([&](int thread) {
    for (int i = thread; i < n; i += team.size) {
      const double squared = e2[i] > rounding * rounding ? e2[i] * scale * scale : 0.0;
      e2[i] = squared > GEOMFAST_STURM_SMALLEST_E2 ? squared : GEOMFAST_STURM_SMALLEST_E2;
      d[i] *= scale;
    }
  });
  const double back = square_root(1.0 / scale);
  const double sum = team.sum([&](int thread) {
    double total = 0.0;
    for (int i = thread; i < n; i += team.size) {
      const double value = square_root(bisect_eigenvalue(d, e2, n, n - 1 - i));
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
