// Causal attention over short rows for one instruction set: a head's queries, keys, values and
// weights stay in a core's own cache, and the weights are computed again for the backward pass.
#include "row_attention_cpu.h"
#include "simd.h"

namespace {

using geomfast::RowAttentionJob;

// Rows of a product that share what they load of the right factor.
constexpr long kTile = 4;
static_assert(kTile == 4 && kFloats % kTile == 0, "tokens are turned four by four");

GEOMFAST_INLINE long up_to(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }
GEOMFAST_INLINE long least(long a, long b) { return a < b ? a : b; }

// Of a row's weights, those below e^-40 of the largest count for nothing in float32. They are zero, so
// that neither they nor what they are multiplied with become denormal numbers, which are slow.
constexpr float kLeast = -40.0f;

// e^x of x <= 0, to 1e-7 of its value; zero below e^kLeast. NaN stays NaN.
GEOMFAST_INLINE FloatVec exponential(FloatVec given) {
  const FloatVec x = given < kLeast ? broadcast(kLeast) : given;
  // x = n log(2) + r: adding 1.5 2^23 leaves the nearest integer in the lowest bits.
  const FloatVec shifted = fma(x, broadcast(0x1.715476p+0f), broadcast(0x1.8p+23f));
  const FloatVec n = shifted - 0x1.8p+23f;
  // log(2) in two parts, n times the first of which is exact.
  FloatVec r = fma(n, broadcast(-0x1.62e4p-1f), x);
  r = fma(n, broadcast(-0x1.7f7d1cp-20f), r);
  // Taylor's series: |r| <= log(2) / 2, so that the first term left out is below 6e-9.
  constexpr float kSeries[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  FloatVec p = broadcast(1.0f / 5040);
  for (const float c : kSeries) p = fma(p, r, broadcast(c));
  const FloatVec power = (FloatVec)(((UnsignedVec)shifted + 127u) << 23);
  return given < kLeast ? FloatVec{} : p * power;
}

// The left factor of a product: an entry lies `row` and `column` numbers from the next ones.
struct Left {
  const float* at;
  long row, column;
};

// kTile rows from `top` of (left x right), summed over [first, last), into rows of out. Both right
// and out have rows of `stride` numbers, of which the first `columns` count, whole vectors.
GEOMFAST_INLINE void product(const Left& left, long top, const float* right, long stride, long first,
                             long last, float* out, long columns) {
  const float* const a = left.at + top * left.row;
  for (long j = 0; j < columns; j += kFloats) {
    FloatVec sums[kTile] = {};
    for (long k = first; k < last; ++k) {
      const FloatVec x = load(right + k * stride + j);
      for (long r = 0; r < kTile; ++r) {
        sums[r] = fma(broadcast(a[r * left.row + k * left.column]), x, sums[r]);
      }
    }
    for (long r = 0; r < kTile; ++r) store(out + r * stride + j, sums[r]);
  }
}

// One head of one row of tokens in scratch memory. Rows are filled up to whole tiles, columns to
// whole vectors; what is there never comes back out.
struct Head {
  long length, width;          // tokens and numbers of each
  long wide, rows, keys;       // width in whole vectors; length in whole tiles, and in vectors
  float *q, *k, *v, *into;     // (rows, wide); queries are scaled already
  float *k_across, *v_across;  // (wide, keys)
  float *weights, *slopes;     // (rows, keys): attention, and the gradient of the scores
  float* part;                 // (kTile, wide)

  GEOMFAST_MEMBER Head(long n, long of)
      : length(n), width(of), wide(up_to(of, kFloats)), rows(up_to(n, kTile)),
        keys(up_to(n, kFloats)) {}

  GEOMFAST_MEMBER long numbers() const {
    return (4 * rows + 2 * keys + kTile) * wide + 2 * rows * keys;
  }

  GEOMFAST_MEMBER void place(float* at) {
    q = at;
    k = q + rows * wide;
    v = k + rows * wide;
    into = v + rows * wide;
    k_across = into + rows * wide;
    v_across = k_across + wide * keys;
    weights = v_across + wide * keys;
    slopes = weights + rows * keys;
    part = slopes + rows * keys;
  }

  // (length, width) numbers, rows `stride` apart, times a factor. What is needed next lies `ahead`
  // of them: too far apart for a processor to see it coming, it is sent for now.
  GEOMFAST_MEMBER void take(const float* from, long stride, long ahead, float factor,
                            float* to) const {
    for (long i = 0; i < length; ++i) {
      __builtin_prefetch(from + i * stride + ahead);
      long j = 0;
      for (; j + kFloats <= width; j += kFloats) {
        store(to + i * wide + j, factor * load_anywhere(from + i * stride + j));
      }
      for (; j < width; ++j) to[i * wide + j] = factor * from[i * stride + j];
    }
  }

  // Tokens across: four by four, those that fill up the last ones too.
  GEOMFAST_MEMBER void turn(const float* from, float* to) const {
    constexpr double kOnes[] = {1.0, 1.0, 1.0, 1.0};
    for (long i = 0; i < rows; i += 4) {
      for (long j = 0; j < width; j += 4) {
        const float* const at = from + i * wide + j;
        const float* const four[] = {at, at + wide, at + 2 * wide, at + 3 * wide};
        transpose_4x4(four, kOnes, to + j * keys + i, keys);
      }
    }
  }

  // Rows of `part`, the first of which is row `top`, times a factor.
  GEOMFAST_MEMBER void give(long top, float factor, float* to, long stride) const {
    for (long i = top; i < least(top + kTile, length); ++i) {
      const float* const from = part + (i - top) * wide;
      long j = 0;
      for (; j + kFloats <= width; j += kFloats) {
        store_anywhere(to + i * stride + j, factor * load(from + j));
      }
      for (; j < width; ++j) to[i * stride + j] = factor * from[j];
    }
  }

  // Where a vector's keys come after query i.
  GEOMFAST_MEMBER IntVec later(long i, long j) const {
    IntVec key;
    for (int l = 0; l < kFloats; ++l) key[l] = l;
    return key > static_cast<int>(i - j);
  }

  // How far a vector's keys are after query i.
  GEOMFAST_MEMBER FloatVec distance(long i, long j) const {
    FloatVec key;
    for (int l = 0; l < kFloats; ++l) key[l] = static_cast<float>(l);
    return key + static_cast<float>(j - i);
  }

  // Keys that some query of a tile sees, in whole vectors.
  GEOMFAST_MEMBER long seen(long top) const { return up_to(least(top + kTile, length), kFloats); }

  // Attention of the queries of a tile; zero where a key comes later. A score falls by so much for
  // every token from its key to its query; where none does, a branch would cost a tenth of the time.
  template <bool kFalling>
  GEOMFAST_MEMBER void attend(long top, float fall) const {
    const long last = seen(top);
    product({q, wide, 1}, top, k_across, keys, 0, width, weights + top * keys, last);
    for (long i = top; i < top + kTile; ++i) {
      float* const w = weights + i * keys;
      if constexpr (kFalling) {
        for (long j = 0; j < last; j += kFloats) {
          store(w + j, fma(broadcast(fall), distance(i, j), load(w + j)));
        }
      }
      FloatVec most = broadcast(-__builtin_inff());
      for (long j = 0; j < last; j += kFloats) {
        const FloatVec x = later(i, j) ? most : load(w + j);
        most = x > most ? x : most;
      }
      const float peak = largest_of(most);
      FloatVec total = {};
      for (long j = 0; j < last; j += kFloats) {
        const FloatVec x = later(i, j) ? FloatVec{} : exponential(load(w + j) - peak);
        store(w + j, x);
        total += x;
      }
      const float share = 1.0f / sum_of(total);
      for (long j = 0; j < last; j += kFloats) store(w + j, share * load(w + j));
    }
  }

  // The gradient of a tile's scores, from that of the output.
  GEOMFAST_MEMBER void descend(long top) const {
    const long last = seen(top);
    product({into, wide, 1}, top, v_across, keys, 0, width, slopes + top * keys, last);
    for (long i = top; i < top + kTile; ++i) {
      const float* const w = weights + i * keys;
      float* const s = slopes + i * keys;
      FloatVec total = {};
      for (long j = 0; j < last; j += kFloats) {
        const FloatVec x = later(i, j) ? FloatVec{} : load(w + j) * load(s + j);
        store(s + j, x);
        total += x;
      }
      const float mean = sum_of(total);
      for (long j = 0; j < last; j += kFloats) store(s + j, load(s + j) - mean * load(w + j));
    }
  }
};

long scratch(const RowAttentionJob& job) {
  return Head(job.longest, job.width).numbers();
}

template <bool kFalling>
void heads_of_row(const RowAttentionJob& job, long member, long row, float* memory) {
  const long tokens = job.offsets[job.rows], start = job.offsets[row];
  const long d = job.heads * job.width, first = member * tokens + start;
  Head head(job.offsets[row + 1] - start, job.width);
  head.place(memory);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(job.width));
  for (long h = 0; h < job.heads; ++h) {
    const float fall = kFalling ? job.falls[h] : 0.0f;
    const float* const at = job.qkv + first * 3 * d + h * job.width;
    // The next head, or the first one of the next row.
    const bool last = h + 1 == job.heads;
    const long tokens_on = last ? head.length : 0, numbers_on = last ? -h * job.width : job.width;
    const long ahead = tokens_on * 3 * d + numbers_on;
    head.take(at, 3 * d, ahead, scale, head.q);
    head.take(at + d, 3 * d, ahead, 1.0f, head.k);
    head.take(at + 2 * d, 3 * d, ahead, 1.0f, head.v);
    head.turn(head.k, head.k_across);
    if (job.into == nullptr) {
      float* const out = job.out + first * d + h * job.width;
      for (long i = 0; i < head.length; i += kTile) {
        head.attend<kFalling>(i, fall);
        product({head.weights, head.keys, 1}, i, head.v, head.wide, 0,
                least(i + kTile, head.length), head.part, head.wide);
        head.give(i, 1.0f, out, d);
      }
      continue;
    }
    float* const out = job.out + first * 3 * d + h * job.width;
    head.take(job.into + first * d + h * job.width, d, tokens_on * d + numbers_on, 1.0f,
              head.into);
    head.turn(head.v, head.v_across);
    for (long i = 0; i < head.length; i += kTile) {
      head.attend<kFalling>(i, fall);
      head.descend(i);
      product({head.slopes, head.keys, 1}, i, head.k, head.wide, 0, least(i + kTile, head.length),
              head.part, head.wide);
      head.give(i, scale, out, 3 * d);
    }
    // Keys and values are seen by queries from their own place on.
    for (long j = 0; j < head.length; j += kTile) {
      product({head.slopes, 1, head.keys}, j, head.q, head.wide, j, head.length, head.part,
              head.wide);
      head.give(j, 1.0f, out + d, 3 * d);
      product({head.weights, 1, head.keys}, j, head.into, head.wide, j, head.length, head.part,
              head.wide);
      head.give(j, 1.0f, out + 2 * d, 3 * d);
    }
  }
}

void row(const RowAttentionJob& job, long member, long row, float* memory) {
  (job.falls == nullptr ? heads_of_row<false> : heads_of_row<true>)(job, member, row, memory);
}

}  // namespace

namespace geomfast {

extern const RowAttentionKernel GEOMFAST_JOIN(row_attention_, GEOMFAST_ISA_NAME);
const RowAttentionKernel GEOMFAST_JOIN(row_attention_, GEOMFAST_ISA_NAME) = {
    GEOMFAST_STRING(GEOMFAST_ISA_NAME), scratch, row};

}  // namespace geomfast
