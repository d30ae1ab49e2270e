// Langevin steps for one instruction set: noise, update and sums in one pass over the parameters.
#if defined(__GNUC__) && !defined(__clang__)
// Without it the long chains of the noise are left in the order they are written in, each waiting
// for its last result: a step takes 1.3 times as long.
#pragma GCC optimize("schedule-insns")
#endif

#include "noise.inl"

namespace {

using geomfast::kCounters;
using geomfast::kGroup;
using geomfast::kStatistics;
using geomfast::NoiseStream;
using geomfast::SgldRow;

typedef double WideSum __attribute__((vector_size(2 * kVectorBytes)));

GEOMFAST_INLINE double total(const WideSum& v) {
  double all = 0.0;
  for (int i = 0; i < kFloats; ++i) all += v[i];
  return all;
}

// Of a few groups in float32, whose rounding is far below what the sums are needed for.
struct Sums {
  FloatVec of[kStatistics] = {};

  void add_to(WideSum statistics[kStatistics]) const {
    for (int s = 0; s < kStatistics; ++s) {
      statistics[s] += __builtin_convertvector(of[s], WideSum);
    }
  }
};
constexpr long kGroupsInSums = 8;

// One vector of entries. kTracked: with the weights before; kMoving: with a velocity instead.
template <bool kTracked, bool kMoving>
GEOMFAST_INLINE void step_vector(const SgldRow& row, long i, FloatVec z, Sums& sums) {
  const FloatVec w = load_anywhere(row.weights + i), g = load_anywhere(row.gradients + i);
  const FloatVec away = w - load_anywhere(row.center + i);
  const FloatVec of_loss = row.pull * g;
  const FloatVec drift = of_loss + row.back * away;
  const FloatVec kick = row.spread * z;
  sums.of[0] = fma(away, away, sums.of[0]);
  if constexpr (kMoving) {
    const FloatVec u = load_anywhere(row.velocity + i);
    sums.of[1] = fma(of_loss, drift, sums.of[1]);
    sums.of[2] = fma(of_loss, away, sums.of[2]);
    sums.of[3] = fma(of_loss, u, sums.of[3]);
    const FloatVec before = u - drift;
    const FloatVec after = row.keep * before + kick;
    store_anywhere(row.velocity + i, after);
    store_anywhere(row.weights + i, (w + before) + after);
    return;
  }
  sums.of[1] = fma(drift, drift, sums.of[1]);
  if constexpr (kTracked) {
    sums.of[2] = fma(w - load_anywhere(row.previous + i), drift, sums.of[2]);
    store_anywhere(row.previous + i, w);
  }
  sums.of[3] = fma(kick, drift, sums.of[3]);
  store_anywhere(row.weights + i, (w - drift) + kick);
}

template <bool kTracked, bool kMoving>
GEOMFAST_INLINE void step_group(const SgldRow& row, const Noise& noise, long group, long at,
                                Sums& sums) {
  for (int j = 0; j < kCounters; j += kFloats) {
    FloatVec z[4];
    noise.normals(static_cast<unsigned long long>(group) * kCounters + j, z);
    for (int k = 0; k < 4; ++k) {
      step_vector<kTracked, kMoving>(row, at + k * kCounters + j, z[k], sums);
    }
  }
}

template <bool kTracked, bool kMoving>
void step_entries(const SgldRow& row, long first, long last, double* statistics) {
  const Noise noise(row.stream);
  WideSum all[kStatistics] = {};
  const long whole = last / kGroup;
  for (long group = first / kGroup; group < whole;) {
    const long end = whole - group < kGroupsInSums ? whole : group + kGroupsInSums;
    Sums sums;
    for (; group < end; ++group) {
      step_group<kTracked, kMoving>(row, noise, group, group * kGroup, sums);
    }
    sums.add_to(all);
  }
  if (const long rest = last - whole * kGroup; rest > 0) {
    // The last group is filled up with entries that stay at the center and add nothing to the sums.
    alignas(64) float padded[5][kGroup] = {};
    float* const held[] = {row.weights, row.previous, row.velocity};
    const auto copy = [&](const float* from, float* to) {
      for (long i = 0; from != nullptr && i < rest; ++i) to[i] = from[whole * kGroup + i];
    };
    for (int i = 0; i < 3; ++i) copy(held[i], padded[i]);
    copy(row.gradients, padded[3]);
    copy(row.center, padded[4]);
    SgldRow end = row;
    end.weights = padded[0];
    end.previous = padded[1];
    end.velocity = padded[2];
    end.gradients = padded[3];
    end.center = padded[4];
    Sums sums;
    step_group<kTracked, kMoving>(end, noise, whole, 0, sums);
    sums.add_to(all);
    for (int i = 0; i < 3; ++i) {
      for (long j = 0; held[i] != nullptr && j < rest; ++j) {
        held[i][whole * kGroup + j] = padded[i][j];
      }
    }
  }
  for (int s = 0; s < kStatistics; ++s) statistics[s] += total(all[s]);
}

void step(const SgldRow& row, long first, long last, double* statistics) {
  const auto still = row.previous != nullptr ? step_entries<true, false> : step_entries<false, false>;
  const auto entries = row.velocity == nullptr ? still : step_entries<false, true>;
  entries(row, first, last, statistics);
}

void normals(const NoiseStream& stream, long first, long last, float* out) {
  const Noise noise(stream);
  for (long at = first; at < last; at += kGroup) {
    alignas(64) float group[kGroup];
    for (int j = 0; j < kCounters; j += kFloats) {
      FloatVec z[4];
      noise.normals(static_cast<unsigned long long>(at) / 4 + j, z);
      for (int k = 0; k < 4; ++k) store(group + k * kCounters + j, z[k]);
    }
    for (long i = at; i < last && i < at + kGroup; ++i) out[i - first] = group[i - at];
  }
}

void philox(const unsigned counter[4], const unsigned key[2], unsigned out[4]) {
  const RoundKeys keys = round_keys(key[0], key[1]);
  Wide c[4];
  for (int k = 0; k < 4; ++k) c[k] = wide(counter[k]);
  philox_rounds(c, keys);
  for (int k = 0; k < 4; ++k) out[k] = static_cast<unsigned>(c[k][kFloats / 2 - 1]);
}

}  // namespace

namespace geomfast {

extern const SgldKernel GEOMFAST_JOIN(sgld_, GEOMFAST_ISA_NAME);
const SgldKernel GEOMFAST_JOIN(sgld_, GEOMFAST_ISA_NAME) = {GEOMFAST_STRING(GEOMFAST_ISA_NAME),
                                                            step, normals, philox};

}  // namespace geomfast
