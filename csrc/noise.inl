// Normal numbers from counters: Philox4x32-10 (Salmon et al. 2011), then Box-Muller.
//
// Every operation is exact or rounds once, and none is fused with another, so that the numbers have
// the same bits whatever the vector width, the processor, and on a GPU.
#pragma once

#include "sgld_cpu.h"
#include "simd.h"

namespace {

typedef unsigned long long Wide __attribute__((vector_size(kVectorBytes)));

GEOMFAST_INLINE Wide wide(unsigned long long x) { return x - Wide{}; }

// Products of the low 32 bits.
GEOMFAST_INLINE Wide multiply(Wide a, Wide b) {
#if defined(__AVX512F__)
  return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
  return (a & 0xffffffffull) * (b & 0xffffffffull);
#endif
}

GEOMFAST_INLINE FloatVec square_root(FloatVec x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < kFloats; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// The low halves of two of a's lanes, then of the same two of b's, and so on.
GEOMFAST_INLINE UnsignedVec low_halves(Wide a, Wide b) {
#if defined(__AVX512F__)
  return (UnsignedVec)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x88);
#elif defined(__AVX2__)
  return (UnsignedVec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
#else
  const UnsignedVec x = (UnsignedVec)a, y = (UnsignedVec)b;
  return UnsignedVec{x[0], x[2], y[0], y[2]};
#endif
}

// a where the highest bit of y is set, else b.
GEOMFAST_INLINE FloatVec by_highest_bit(UnsignedVec y, FloatVec a, FloatVec b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return _mm256_blendv_ps(b, a, (__m256)y);
#else
  return (IntVec)y < 0 ? a : b;
#endif
}

struct RoundKeys {
  Wide of[10][2];
};

GEOMFAST_INLINE RoundKeys round_keys(unsigned key_0, unsigned key_1) {
  RoundKeys keys;
  for (int i = 0; i < 10; ++i) {
    keys.of[i][0] = wide(key_0 + i * 0x9E3779B9u);
    keys.of[i][1] = wide(key_1 + i * 0xBB67AE85u);
  }
  return keys;
}

constexpr unsigned kPhilox0 = 0xD2511F53u, kPhilox1 = 0xCD9E8D57u;

// A counter's four words, one counter in each 64-bit lane. Only the low 32 bits of a lane count:
// the product takes no more, and its high half is where the other half of a round is needed.
GEOMFAST_INLINE void philox_rounds(Wide c[4], const RoundKeys& keys, int first = 0) {
  const Wide m0 = wide(kPhilox0), m1 = wide(kPhilox1);
  for (int i = first; i < 10; ++i) {
    const Wide p0 = multiply(c[0], m0), p1 = multiply(c[2], m1);
    c[0] = (p1 >> 32) ^ c[1] ^ keys.of[i][0];
    c[2] = (p0 >> 32) ^ c[3] ^ keys.of[i][1];
    c[1] = p1;
    c[3] = p0;
  }
}

// Two independent normal numbers from two of 32 random bits.
GEOMFAST_INLINE void box_muller(UnsignedVec x, UnsignedVec y, FloatVec& a, FloatVec& b) {
  // u in (0, 1], of 31 bits: a signed conversion is a single instruction, and the half step keeps
  // the logarithm from zero.
  const FloatVec u = __builtin_convertvector((IntVec)(x >> 1), FloatVec) * 0x1p-31f + 0x1p-32f;
  // u = (1 + f) 2^e with 1 + f in [sqrt(1/2), sqrt(2)); -2 log(1 + f) = f p(f), within 1.8e-7.
  const IntVec bits = (IntVec)u;
  const IntVec above = bits - 0x3f3504f3, e = above >> 23;
  const FloatVec f = (FloatVec)(bits - (above & ~0x7fffff)) - 1.0f;
  FloatVec p = broadcast(0x1.9dfa5cp-3f);
  p = p * f - 0x1.4c3d04p-2f;
  p = p * f + 0x1.614c0ap-2f;
  p = p * f - 0x1.978e2ep-2f;
  p = p * f + 0x1.ff623cp-2f;
  p = p * f - 0x1.5559dcp-1f;
  p = p * f + 0x1.00007ap+0f;
  p = p * f - 0x1.fffffep+0f;
  const FloatVec r = square_root(p * f - __builtin_convertvector(e, FloatVec) * 0x1.62e43p+0f);
  // An angle of 30 bits within 45 degrees of an axis; the other two bits say of which.
  const FloatVec t = __builtin_convertvector((IntVec)(y << 2), FloatVec) * 0x1.921fb6p-32f;
  const FloatVec tt = t * t;
  FloatVec s = broadcast(-0x1.99076cp-13f);
  s = s * tt + 0x1.11063p-7f;
  s = s * tt - 0x1.55554p-3f;
  s = (s * tt) * t + t;
  FloatVec c = broadcast(-0x1.64257ep-10f);
  c = c * tt + 0x1.553cecp-5f;
  c = c * tt - 0x1.ffffap-2f;
  c = c * tt + 1.0f;
  c = (FloatVec)((UnsignedVec)c ^ ((y << 1) & 0x80000000u));
  a = r * by_highest_bit(y, s, c);
  b = r * by_highest_bit(y, c, s);
}

// Noise of one chain's step.
struct Noise {
  RoundKeys keys;
  Wide here, there;  // counters of two vectors whose low halves make one in order
  Wide fixed[4];     // what the first three rounds take of chain and step alone

  explicit Noise(const geomfast::NoiseStream& stream)
      : keys(round_keys(static_cast<unsigned>(stream.seed),
                        static_cast<unsigned>(stream.seed >> 32))) {
    for (int i = 0; i < kFloats / 2; ++i) {
      here[i] = 4 * (i / 2) + i % 2;
      there[i] = here[i] + 2;
    }
    const Wide p1 = multiply(wide(static_cast<unsigned>(stream.step)), wide(kPhilox1));
    const Wide p0 = multiply((p1 >> 32) ^ wide(stream.chain) ^ keys.of[0][0], wide(kPhilox0));
    fixed[0] = wide(stream.step >> 32) ^ keys.of[0][1];
    fixed[1] = p1 ^ keys.of[1][0];
    fixed[2] = (p0 >> 32) ^ keys.of[1][1];
    fixed[3] = p0 ^ keys.of[2][1];
  }

  // All rounds of one vector of counters.
  GEOMFAST_MEMBER void words(Wide counter, Wide c[4]) const {
    const Wide m0 = wide(kPhilox0), m1 = wide(kPhilox1);
    const Wide first = multiply(counter, m0);
    const Wide second = multiply((first >> 32) ^ fixed[0], m1);
    const Wide p0 = multiply((second >> 32) ^ fixed[1], m0), p1 = multiply(first ^ fixed[2], m1);
    c[0] = (p1 >> 32) ^ second ^ keys.of[2][0];
    c[1] = p1;
    c[2] = (p0 >> 32) ^ fixed[3];
    c[3] = p0;
    philox_rounds(c, keys, 3);
  }

  // The four numbers of counters [first, first + kFloats), as one vector each.
  GEOMFAST_MEMBER void bits(unsigned long long first, UnsignedVec x[4]) const {
    Wide a[4], b[4];
    words(here + first, a);
    words(there + first, b);
    for (int k = 0; k < 4; ++k) x[k] = low_halves(a[k], b[k]);
  }

  GEOMFAST_MEMBER void normals(unsigned long long first, FloatVec z[4]) const {
    UnsignedVec x[4];
    bits(first, x);
    box_muller(x[0], x[1], z[0], z[1]);
    box_muller(x[2], x[3], z[2], z[3]);
  }
};

}  // namespace
