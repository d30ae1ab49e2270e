// Eigenvalues of kLanes symmetric tridiagonal matrices at once by root-free QL.
//
// Entry i of lane t lies at [i * kLanes + t]. A sweep walks the union of the lanes' active ranges
// [l, m]; a lane outside its own range computes and discards. A lane that is done has handed over its
// eigenvalues and computes anything. A lane moves on to its next
// eigenvalue on its own, so that lanes drift apart but never wait for each other. No lane's numbers
// depend on another lane: results do not change with the company a matrix keeps.

namespace {

constexpr int kQlVectors = 2;  // independent chains hide the latency of the division
constexpr int kLanes = kQlVectors * kWidth;

struct Sweep {
  Vec sigma[kQlVectors], tolerance[kQlVectors];
  Vec low[kQlVectors], high[kQlVectors];  // active rows low <= i < high, as doubles
  Vec split[kQlVectors];                  // lowest negligible off-diagonal met, as double
  QlState<Vec> state[kQlVectors];
};

// Rows from `from` down to `to`. With kEdges lanes may start, end or pause, else all are active.
template <bool kEdges>
GEOMFAST_INLINE void sweep_rows(Sweep& shared, double* d, double* e2, long from, long to) {
  Sweep sweep = shared;
  Vec d_above[kQlVectors], e2_above[kQlVectors];
  for (int q = 0; q < kQlVectors; ++q) {
    d_above[q] = load(d + (from + 1) * kLanes + q * kWidth);
    e2_above[q] = load(e2 + (from + 1) * kLanes + q * kWidth);
  }
  for (long i = from; i >= to; --i) {
    const Vec row = broadcast(static_cast<double>(i));
#pragma GCC unroll 2
    for (int q = 0; q < kQlVectors; ++q) {
      double* here_d = d + i * kLanes + q * kWidth;
      double* here_e2 = e2 + i * kLanes + q * kWidth;
      QlState<Vec>& state = sweep.state[q];
      const Vec alpha = load(here_d), beta = load(here_e2);
      if (kEdges) {
        const auto starts = row == sweep.high[q] - 1.0;
        const Vec gamma = d_above[q] - sweep.sigma[q];
        const Vec smallest = broadcast(GEOMFAST_QL_SMALLEST_PIVOT);
        const Vec pivot = gamma * gamma < smallest * smallest ? smallest : gamma;
        state.gamma = starts ? pivot : state.gamma;
        state.p = starts ? pivot * pivot : state.p;
        state.s = starts ? Vec{} : state.s;
      }
      Vec new_d, new_e2;
      ql_step(state, alpha, beta, sweep.sigma[q], new_d, new_e2);
      auto negligible = new_e2 <= sweep.tolerance[q];
      if (kEdges) {
        const auto active = (row >= sweep.low[q]) & (row < sweep.high[q]);
        new_d = active ? new_d : d_above[q];
        new_e2 = active ? new_e2 : e2_above[q];
        negligible &= active;
      }
      store(here_d + kLanes, new_d);
      store(here_e2 + kLanes, new_e2);
      sweep.split[q] = negligible ? row + 1.0 : sweep.split[q];
      d_above[q] = alpha;
      e2_above[q] = beta;
      if (kEdges) {
        const auto ends = row == sweep.low[q];
        d_above[q] = ends ? sweep.sigma[q] + state.gamma : alpha;
        e2_above[q] = ends ? state.s * state.p : beta;
      }
    }
  }
  for (int q = 0; q < kQlVectors; ++q) {
    store(d + to * kLanes + q * kWidth, d_above[q]);
    store(e2 + to * kLanes + q * kWidth, e2_above[q]);
  }
  shared = sweep;
}

// Writes the eigenvalues (unordered) of lane t < count to out[t * n]. Overwrites d and e2, which
// hold n * kLanes doubles, n >= 1, entries of order one or below. Returns false if some lane does
// not converge within 30 sweeps per eigenvalue on average (two are usual).
bool ql_eigenvalues(double* d, double* e2, long n, long count, double* out) {
  // Off-diagonal over the largest diagonal: rounding, since less is not reached when eigenvalues
  // agree to rounding (the Gram matrix of orthogonal rows).
  constexpr double kNegligible = 1.0 / (1L << 53);
  constexpr int kPatience = 10;  // sweeps on one eigenvalue; two are usual
  Sweep sweep;
  long low[kLanes], high[kLanes], last_low[kLanes];
  int waited[kLanes];
  double sigma[kLanes], rounding[kLanes], tolerance[kLanes], split[kLanes];
  for (int t = 0; t < kLanes; ++t) {
    double largest = 0.0;
    for (long i = 0; i < n; ++i) {
      const double x = d[i * kLanes + t];
      largest = x > largest ? x : largest;
    }
    rounding[t] = largest * kNegligible * (largest * kNegligible);
    tolerance[t] = rounding[t];
    last_low[t] = -1;
    waited[t] = 0;
    low[t] = t < count ? 0 : n + 1;
    high[t] = -1;
  }
  for (long sweeps = 0; sweeps <= 30 * n; ++sweeps) {
    long highest = -1, lowest = n, body_high = n, body_low = 0;
    double low_row[kLanes], high_row[kLanes];
    for (int t = 0; t < kLanes; ++t) {
      while (low[t] < n) {
        if (low[t] > high[t]) {
          high[t] = low[t];
          while (high[t] < n - 1 && e2[high[t] * kLanes + t] > tolerance[t]) ++high[t];
        }
        if (low[t] < high[t] && e2[low[t] * kLanes + t] > tolerance[t]) break;
        ++low[t];
      }
      if (low[t] == n) {
        for (long i = 0; i < n; ++i) out[t * n + i] = d[i * kLanes + t];
        low[t] = n + 1;
      }
      if (low[t] > n) {  // done: an empty range
        low_row[t] = static_cast<double>(n);
        high_row[t] = -2.0;
        sigma[t] = 0.0;
        continue;
      }
      // Multiple eigenvalues may leave an off-diagonal that hovers at a few times rounding.
      waited[t] = low[t] == last_low[t] ? waited[t] + 1 : 0;
      last_low[t] = low[t];
      tolerance[t] = waited[t] > kPatience ? 4.0 * tolerance[t] : rounding[t];
      const double* first = d + low[t] * kLanes + t;
      sigma[t] = wilkinson_shift(first[0], first[kLanes], e2[low[t] * kLanes + t]);
      low_row[t] = static_cast<double>(low[t]);
      high_row[t] = static_cast<double>(high[t]);
      highest = high[t] > highest ? high[t] : highest;
      lowest = low[t] < lowest ? low[t] : lowest;
      body_high = high[t] < body_high ? high[t] : body_high;
      body_low = low[t] > body_low ? low[t] : body_low;
    }
    if (highest < 0) return true;
    for (int q = 0; q < kQlVectors; ++q) {
      for (int t = 0; t < kWidth; ++t) {
        sweep.sigma[q][t] = sigma[q * kWidth + t];
        sweep.tolerance[q][t] = tolerance[q * kWidth + t];
        sweep.low[q][t] = low_row[q * kWidth + t];
        sweep.high[q][t] = high_row[q * kWidth + t];
      }
      sweep.split[q] = sweep.high[q];
      sweep.state[q] = QlState<Vec>{broadcast(1.0), broadcast(1.0), Vec{}};
    }
    // Rows strictly inside every lane's range need no test for starts and ends.
    const long from = body_high - 2, to = body_low + 1;
    if (from >= to) {
      sweep_rows<true>(sweep, d, e2, highest - 1, from + 1);
      sweep_rows<false>(sweep, d, e2, from, to);
      sweep_rows<true>(sweep, d, e2, to - 1, lowest);
    } else {
      sweep_rows<true>(sweep, d, e2, highest - 1, lowest);
    }
    for (int q = 0; q < kQlVectors; ++q) {
      for (int t = 0; t < kWidth; ++t) split[q * kWidth + t] = sweep.split[q][t];
    }
    for (int t = 0; t < kLanes; ++t) {
      if (low[t] < n) high[t] = static_cast<long>(split[t]);
    }
  }
  return false;
}

}  // namespace
