// The few vector operations that the kernels need, for the instruction set of the including file.
//
// Everything has internal linkage and nothing comes from std::, since each kernel file is compiled
// for another instruction set and the linker must never mix them.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
#define GEOMFAST_ISA_NAME avx512
constexpr int kVectorBytes = 64;
constexpr int kTileVectors = 2;   // Gram tile: columns = kTileVectors vectors ...
constexpr int kTileRows = 8;      // ... by this many rows; both sized to the register file
constexpr int kReduceRows = 4;    // rows updated together in the tridiagonalisation
#elif defined(__AVX2__)
#define GEOMFAST_ISA_NAME avx2
constexpr int kVectorBytes = 32;
constexpr int kTileVectors = 3;
constexpr int kTileRows = 4;
constexpr int kReduceRows = 2;
#else
#define GEOMFAST_ISA_NAME portable
constexpr int kVectorBytes = 16;
constexpr int kTileVectors = 2;
constexpr int kTileRows = 4;
constexpr int kReduceRows = 2;
#endif

// For the names of what each instruction set's files define.
#define GEOMFAST_JOIN_(a, b) a##b
#define GEOMFAST_JOIN(a, b) GEOMFAST_JOIN_(a, b)
#define GEOMFAST_STRING_(a) #a
#define GEOMFAST_STRING(a) GEOMFAST_STRING_(a)

template <class S>
constexpr int kWidthOf = kVectorBytes / sizeof(S);  // numbers in a vector
constexpr int kWidth = kWidthOf<double>;
constexpr int kFloats = kWidthOf<float>;

typedef double Vec __attribute__((vector_size(kVectorBytes)));
typedef float FloatVec __attribute__((vector_size(kVectorBytes)));
typedef Vec VecInMemory __attribute__((may_alias));
typedef FloatVec FloatVecInMemory __attribute__((may_alias));
typedef float FloatVecAnywhere __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef int IntVec __attribute__((vector_size(kVectorBytes)));
typedef unsigned UnsignedVec __attribute__((vector_size(kVectorBytes)));

#define GEOMFAST_MEMBER inline __attribute__((always_inline))
#define GEOMFAST_INLINE static GEOMFAST_MEMBER

GEOMFAST_INLINE Vec load(const double* p) { return *reinterpret_cast<const VecInMemory*>(p); }
GEOMFAST_INLINE FloatVec load(const float* p) {
  return *reinterpret_cast<const FloatVecInMemory*>(p);
}
// Rows of a buffer begin anywhere.
GEOMFAST_INLINE FloatVec load_anywhere(const float* p) {
  return *reinterpret_cast<const FloatVecAnywhere*>(p);
}
GEOMFAST_INLINE void store_anywhere(float* p, FloatVec v) {
  *reinterpret_cast<FloatVecAnywhere*>(p) = v;
}
GEOMFAST_INLINE void store(double* p, Vec v) { *reinterpret_cast<VecInMemory*>(p) = v; }
GEOMFAST_INLINE void store(float* p, FloatVec v) { *reinterpret_cast<FloatVecInMemory*>(p) = v; }
// x - 0 is x for every x, which compilers know; x + 0 is not.
GEOMFAST_INLINE Vec broadcast(double x) { return x - Vec{}; }
GEOMFAST_INLINE FloatVec broadcast(float x) { return x - FloatVec{}; }

template <class S>
using VecOf = decltype(broadcast(S{}));

#if defined(__AVX512F__)
GEOMFAST_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }
GEOMFAST_INLINE FloatVec fma(FloatVec a, FloatVec b, FloatVec c) {
  return _mm512_fmadd_ps(a, b, c);
}
GEOMFAST_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_pd(a, b, c); }
#elif defined(__AVX2__)
GEOMFAST_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }
GEOMFAST_INLINE FloatVec fma(FloatVec a, FloatVec b, FloatVec c) {
  return _mm256_fmadd_ps(a, b, c);
}
GEOMFAST_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_pd(a, b, c); }
#else
GEOMFAST_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
GEOMFAST_INLINE FloatVec fma(FloatVec a, FloatVec b, FloatVec c) { return a * b + c; }
GEOMFAST_INLINE Vec fnma(Vec a, Vec b, Vec c) { return c - a * b; }
#endif

GEOMFAST_INLINE double sum(Vec v) {
  double total = 0.0;
  for (int i = 0; i < kWidth; ++i) total += v[i];
  return total;
}

// One number out of a vector's, two halves at a time.
template <class Both>
GEOMFAST_INLINE float folded(FloatVec v, Both both) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  // With a mask, since GCC 12 warns of its own headers without.
  const __m256 half = both(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                           _mm512_maskz_extractf32x8_ps(0xff, v, 1));
#else
  const __m256 half = v;
#endif
  __m128 part = both(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  part = both(part, _mm_movehl_ps(part, part));
  return _mm_cvtss_f32(both(part, _mm_movehdup_ps(part)));
#else
  return both(both(v[0], v[1]), both(v[2], v[3]));
#endif
}

GEOMFAST_INLINE float sum_of(FloatVec v) {
  return folded(v, [](auto a, auto b) { return a + b; });
}

GEOMFAST_INLINE float largest_of(FloatVec v) {
  return folded(v, [](auto a, auto b) { return a > b ? a : b; });
}

#if defined(__AVX2__)
// The sums of four 4-vectors, as one vector.
GEOMFAST_INLINE __m256d sums_of_four(__m256d a, __m256d b, __m256d c, __m256d d) {
  const __m256d ab = _mm256_hadd_pd(a, b), cd = _mm256_hadd_pd(c, d);
  return _mm256_add_pd(_mm256_permute2f128_pd(ab, cd, 0x21), _mm256_blend_pd(ab, cd, 0xC));
}
#endif

// The sum of each of kWidth vectors, as one vector.
GEOMFAST_INLINE Vec sums(const Vec* v) {
#if defined(__AVX512F__)
  __m256d half[8];
  for (int i = 0; i < 8; ++i) {
    half[i] = _mm256_add_pd(_mm512_castpd512_pd256(v[i]), _mm512_extractf64x4_pd(v[i], 1));
  }
  const __m256d low = sums_of_four(half[0], half[1], half[2], half[3]);
  const __m256d high = sums_of_four(half[4], half[5], half[6], half[7]);
  return _mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1);
#elif defined(__AVX2__)
  return sums_of_four(v[0], v[1], v[2], v[3]);
#else
  return Vec{v[0][0] + v[0][1], v[1][0] + v[1][1]};
#endif
}

// Converts four rows by four columns to double, scales each row, and writes the transpose.
template <class T>
GEOMFAST_INLINE void transpose_4x4(const T* const rows[4], const double scale[4], double* out,
                                   long out_stride) {
#if defined(__AVX2__)
  __m256d r[4];
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      r[i] = _mm256_cvtps_pd(_mm_loadu_ps(reinterpret_cast<const float*>(rows[i])));
    } else {
      r[i] = _mm256_loadu_pd(reinterpret_cast<const double*>(rows[i]));
    }
    r[i] = _mm256_mul_pd(r[i], _mm256_set1_pd(scale[i]));
  }
  const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
  const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
  _mm256_storeu_pd(out, _mm256_permute2f128_pd(a, c, 0x20));
  _mm256_storeu_pd(out + out_stride, _mm256_permute2f128_pd(b, d, 0x20));
  _mm256_storeu_pd(out + 2 * out_stride, _mm256_permute2f128_pd(a, c, 0x31));
  _mm256_storeu_pd(out + 3 * out_stride, _mm256_permute2f128_pd(b, d, 0x31));
#else
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 4; ++k) {
      out[k * out_stride + i] = scale[i] * static_cast<double>(rows[i][k]);
    }
  }
#endif
}

// The same in float32, which stays what it is.
GEOMFAST_INLINE void transpose_4x4(const float* const rows[4], const double scale[4], float* out,
                                   long out_stride) {
#if defined(__AVX2__)
  __m128 r[4];
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm_mul_ps(_mm_loadu_ps(rows[i]), _mm_set1_ps(static_cast<float>(scale[i])));
  }
  _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
  for (int k = 0; k < 4; ++k) _mm_storeu_ps(out + k * out_stride, r[k]);
#else
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 4; ++k) {
      out[k * out_stride + i] = static_cast<float>(scale[i]) * rows[i][k];
    }
  }
#endif
}

}  // namespace
