// LayerNorm of one member's tokens for one instruction set: one pass over memory there, and one
// back, in which the gradients of gain and bias add up as well.
#include "member_norm_cpu.h"
#include "simd.h"

namespace {

using geomfast::MemberNormJob;

// The numbers of a token: whole vectors, then one by one what remains. `of` is called with
// something of the type that it should load, and where.
template <class Of>
GEOMFAST_INLINE void along(long size, Of of) {
  long j = 0;
  for (; j + kFloats <= size; j += kFloats) of(FloatVec{}, j);
  for (; j < size; ++j) of(0.0f, j);
}

GEOMFAST_INLINE FloatVec like(FloatVec, const float* p) { return load_anywhere(p); }
GEOMFAST_INLINE float like(float, const float* p) { return *p; }
GEOMFAST_INLINE void put(float* p, FloatVec v) { store_anywhere(p, v); }
GEOMFAST_INLINE void put(float* p, float x) { *p = x; }

struct Total {
  FloatVec vectors = {};
  float others = 0.0f;

  GEOMFAST_MEMBER void add(FloatVec v) { vectors += v; }
  GEOMFAST_MEMBER void add(float x) { others += x; }
  GEOMFAST_MEMBER float sum() const { return sum_of(vectors) + others; }
};

void forward(const MemberNormJob& job, long member, long first, long last) {
  const long size = job.size;
  const float* const gain = job.gain + member * job.stride;
  const float* const bias = job.bias + member * job.stride;
  for (long t = member * job.tokens + first; t < member * job.tokens + last; ++t) {
    const float* const x = job.x + t * size;
    float* const out = job.out + t * size;
    Total total, squares;
    along(size, [&](auto type, long j) { total.add(like(type, x + j)); });
    const float mean = total.sum() / size;
    along(size, [&](auto type, long j) {
      const auto away = like(type, x + j) - mean;
      squares.add(away * away);
    });
    const float rstd = 1.0f / __builtin_sqrtf(squares.sum() / size + job.eps);
    along(size, [&](auto type, long j) {
      const auto normal = (like(type, x + j) - mean) * rstd;
      put(out + j, normal * like(type, gain + j) + like(type, bias + j));
    });
    job.statistics[2 * t] = mean;
    job.statistics[2 * t + 1] = rstd;
  }
}

void backward(const MemberNormJob& job, long member, long first, long last, float* part) {
  const long size = job.size;
  const float* const gain = job.gain + member * job.stride;
  float* const gain_sum = part;
  float* const bias_sum = part + size;
  for (long j = 0; j < 2 * size; ++j) part[j] = 0.0f;
  for (long t = member * job.tokens + first; t < member * job.tokens + last; ++t) {
    const float* const x = job.x + t * size;
    const float* const into = job.into + t * size;
    float* const out = job.out + t * size;
    const float mean = job.statistics[2 * t], rstd = job.statistics[2 * t + 1];
    Total total, along_normal;
    along(size, [&](auto type, long j) {
      const auto normal = (like(type, x + j) - mean) * rstd;
      const auto g = like(type, into + j);
      put(bias_sum + j, like(type, bias_sum + j) + g);
      put(gain_sum + j, like(type, gain_sum + j) + g * normal);
      const auto scaled = g * like(type, gain + j);
      total.add(scaled);
      along_normal.add(scaled * normal);
    });
    const float a = total.sum() / size, b = along_normal.sum() / size;
    // What remains of the gradient without its mean, and without its part along the normed input.
    along(size, [&](auto type, long j) {
      const auto normal = (like(type, x + j) - mean) * rstd;
      const auto scaled = like(type, into + j) * like(type, gain + j);
      put(out + j, like(type, out + j) + rstd * (scaled - a - normal * b));
    });
  }
}

void tokens(const MemberNormJob& job, long member, long first, long last, float* part) {
  if (part == nullptr) {
    forward(job, member, first, last);
  } else {
    backward(job, member, first, last, part);
  }
}

}  // namespace

namespace geomfast {

extern const MemberNormKernel GEOMFAST_JOIN(member_norm_, GEOMFAST_ISA_NAME);
const MemberNormKernel GEOMFAST_JOIN(member_norm_, GEOMFAST_ISA_NAME) = {
    GEOMFAST_STRING(GEOMFAST_ISA_NAME), tokens};

}  // namespace geomfast
