// The CPU kernels of the gradients' Gram matrix, compiled once per instruction set by
// gradient_gram_<isa>.cpp. As in spectra_kernel.inl: internal linkage only, no std:: templates.
//
// Samples lie beside one another in the lanes of a vector, everywhere: ghost products then sum over
// positions without ever summing across lanes, and gradients are made in the very layout in which
// their Gram matrix reads them.
#include "simd.h"
#include "gradient_gram_cpu.h"

#include "gram.inl"

namespace {

using geomfast::GradientUse;
using geomfast::PanelLayout;
using geomfast::PanelPosition;

constexpr long kLongestSum = 4096;  // of float32 products, in blocks of kBlock, before float64
constexpr long kMostTiles = 64;     // of ghost products summed in float32
constexpr long kCachedBytes = 2 << 20;  // of a cache shared with others
static_assert(kPanelOf<float> <= geomfast::kLargestPanel, "tiles lie on the caller's stack");
constexpr long kPositions = 128;    // of which a block of left factors (16 KiB) stays in L1
// A block of gradients stays in registers while it is summed over positions.
constexpr long kBlockRows = geomfast::kBlockRows, kBlockColumns = geomfast::kBlockColumns;
static_assert(kBlockRows == 4 && kBlockColumns == 3, "gradients() lists what is left over");

template <class S>
struct alignas(64) Tile {
  static constexpr int kSide = kPanelOf<S>;
  S at[kSide * kSide];  // row by row
};

template <class S>
GEOMFAST_INLINE void add(const Tile<S>& from, long rows, double* to) {
  for (long i = 0; i < rows * Tile<S>::kSide; ++i) to[i] += static_cast<double>(from.at[i]);
}

// tile = the products of two packed panels [length][panel] whose sum stays short.
template <class S>
void short_products(const S* a, const S* b, long rows, long length, Tile<S>& tile) {
  constexpr int kSide = Tile<S>::kSide;
  for (long k0 = 0; k0 < length; k0 += kBlock) {
    const long kc = length - k0 < kBlock ? length - k0 : kBlock;
    for (long r = 0; r < rows; r += kTileRows) {
      gram_tile(a + k0 * kSide + r, b + k0 * kSide, kc, tile.at + r * kSide, kSide, k0 == 0);
    }
  }
}

template <class S>
void products(const S* a, const S* b, long rows, long length, Tile<S>& tile) {
  constexpr int kSide = Tile<S>::kSide;
  if (length <= kLongestSum) return short_products(a, b, rows, length, tile);
  alignas(64) double sum[kSide * kSide] = {};
  for (long k0 = 0; k0 < length; k0 += kLongestSum) {
    const long kc = length - k0 < kLongestSum ? length - k0 : kLongestSum;
    short_products(a + k0 * kSide, b + k0 * kSide, rows, kc, tile);
    add(tile, rows, sum);
  }
  for (long i = 0; i < rows * kSide; ++i) tile.at[i] = static_cast<S>(sum[i]);
}

template <class S>
GEOMFAST_INLINE const S* row_of(const geomfast::Factor& factor, long sample, long position) {
  return static_cast<const S*>(factor.data) + sample * factor.sample_stride +
         position * factor.position_stride;
}

template <class S>
void pack_position(const PanelLayout& layout, long index, long position, void* packed) {
  constexpr int kSide = kPanelOf<S>;
  const PanelPosition& where = layout.positions[position];
  const GradientUse& use = *where.use;
  const long first = index * kSide, there = layout.samples - first;
  S* left = static_cast<S*>(packed) + where.left;
  if (use.indices != nullptr) {
    int* indices = reinterpret_cast<int*>(left);
    for (long i = 0; i < kSide; ++i) {
      const long sample = first + (i < there ? i : 0);
      indices[i] = static_cast<int>(use.indices[sample * use.length + where.position]);
    }
  } else {
    pack_lanes<kSide>(row_of<S>(use.left, first, where.position), use.left.sample_stride, there,
                      layout.rows, 1.0, left, kSide);
  }
  pack_lanes<kSide>(row_of<S>(use.right, first, where.position), use.right.sample_stride, there,
                    layout.columns, 1.0, static_cast<S*>(packed) + where.right, kSide);
}

// tile = left_i . left_j of one position of each panel. False if all are zero.
template <class S>
bool left_products(const PanelLayout& layout, const S* a, const PanelPosition& p, const S* b,
                   const PanelPosition& q, long rows, Tile<S>& tile) {
  constexpr int kSide = Tile<S>::kSide;
  const S *left_a = a + p.left, *left_b = b + q.left;
  const int* index_a = reinterpret_cast<const int*>(left_a);
  const int* index_b = reinterpret_cast<const int*>(left_b);
  const bool one_hot_a = p.use->indices != nullptr, one_hot_b = q.use->indices != nullptr;
  if (one_hot_a && one_hot_b) {
    int equal = 0;
    for (long r = 0; r < rows; ++r) {
      for (int c = 0; c < kSide; ++c) {
        equal |= index_a[r] == index_b[c];
        tile.at[r * kSide + c] = index_a[r] == index_b[c] ? S(1) : S(0);
      }
    }
    return equal != 0;
  }
  if (one_hot_a) {
    for (long r = 0; r < rows; ++r) {
      const S* entry = left_b + static_cast<long>(index_a[r]) * kSide;
      for (int c = 0; c < kSide; ++c) tile.at[r * kSide + c] = entry[c];
    }
  } else if (one_hot_b) {
    for (int c = 0; c < kSide; ++c) {
      const S* entry = left_a + static_cast<long>(index_b[c]) * kSide;
      for (long r = 0; r < rows; ++r) tile.at[r * kSide + c] = entry[r];
    }
  } else {
    products(left_a, left_b, rows, layout.rows, tile);
  }
  return true;
}

template <class S>
void ghost_tile(const PanelLayout& layout, const void* panel_a, const void* panel_b, long samples,
                bool diagonal, double* gram) {
  constexpr int kSide = Tile<S>::kSide;
  const S *a = static_cast<const S*>(panel_a), *b = static_cast<const S*>(panel_b);
  const long rows = round_up(samples, kTileRows);
  Tile<S> left, right, sum;
  alignas(64) double below[kSide * kSide] = {};
  for (long i = 0; i < kSide * kSide; ++i) gram[i] = 0.0;
  // The second panel's positions come in blocks that stay in a cache for all of the first's.
  const long bytes = layout.size / layout.count * static_cast<long>(sizeof(S));
  const long block = bytes < kCachedBytes ? kCachedBytes / bytes : 1;
  for (long q0 = 0; q0 < layout.count; q0 += block) {
    const long end = q0 + block < layout.count ? q0 + block : layout.count;
    for (long p = diagonal ? q0 : 0; p < layout.count; ++p) {
      const PanelPosition& at_p = layout.positions[p];
      long tiles = 0;
      const auto add_tile = [&](long q, double* to) {
        const PanelPosition& at_q = layout.positions[q];
        if (left_products(layout, a, at_p, b, at_q, rows, left)) {
          products(a + at_p.right, b + at_q.right, rows, layout.columns, right);
          if (tiles++ == 0) {
            for (long i = 0; i < rows * kSide; ++i) sum.at[i] = left.at[i] * right.at[i];
          } else {
            for (long i = 0; i < rows * kSide; ++i) sum.at[i] += left.at[i] * right.at[i];
          }
        }
        if (tiles == kMostTiles) {
          add(sum, rows, to);
          tiles = 0;
        }
      };
      const auto flush = [&](double* to) {
        if (tiles > 0) add(sum, rows, to);
        tiles = 0;
      };
      if (diagonal) {
        // Positions (p, q) and (q, p) of a panel with itself are transposes of one another.
        for (long q = q0; q < end && q < p; ++q) add_tile(q, below);
        flush(below);
        if (p < end) add_tile(p, gram);
      } else {
        for (long q = q0; q < end; ++q) add_tile(q, gram);
      }
      flush(gram);
    }
  }
  if (diagonal) {
    for (long i = 0; i < kSide; ++i) {
      for (long j = 0; j < kSide; ++j) {
        gram[i * kSide + j] += below[i * kSide + j] + below[j * kSide + i];
      }
    }
  }
}

template <class S>
void pack_factor(const GradientUse& use, bool left, long samples, long index, long first,
                 long count, void* packed) {
  constexpr int kWidth = kWidthOf<S>;
  constexpr long kRun = 16 * kBlockRows * kBlockColumns;  // whole blocks, long enough to prefetch
  const long block = left ? kBlockRows : kBlockColumns;
  const long sample = index * kWidth, there = samples - sample;
  const geomfast::Factor& factor = left ? use.left : use.right;
  alignas(64) S run[kRun * kWidth];
  for (long k0 = 0; k0 < count; k0 += kRun) {
    const long kc = count - k0 < kRun ? count - k0 : kRun;
    S* out = static_cast<S*>(packed) + k0 * use.length * kWidth;
    for (long t = 0; t < use.length; ++t, out += block * kWidth) {
      if (left && use.indices != nullptr) {
        for (long i = 0; i < kWidth; ++i) {
          const long long row = use.indices[(sample + (i < there ? i : 0)) * use.length + t];
          for (long k = 0; k < kc; ++k) run[k * kWidth + i] = row == first + k0 + k ? S(1) : S(0);
        }
      } else {
        pack_lanes<kWidth>(row_of<S>(factor, sample, t) + first + k0, factor.sample_stride, there,
                           kc, 1.0, run, kWidth);
      }
      for (long k = 0; k < kc; k += block) {
        const long entries = kc - k < block ? kc - k : block;
        for (long i = 0; i < entries * kWidth; i += kWidth) {
          store(out + k * use.length * kWidth + i, load(run + k * kWidth + i));
        }
      }
    }
  }
}

// R by C entries of one vector's gradients, from the beginning of a packed block of each factor.
template <int R, int C, class S>
GEOMFAST_INLINE void gradient_block(const S* left, const S* right, long length, bool first, S* out,
                                    long row_stride) {
  using Vec = VecOf<S>;
  constexpr int kWidth = kWidthOf<S>;
  Vec acc[R][C] = {};
  for (long t = 0; t < length; ++t) {
    Vec columns[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) columns[c] = load(right + (t * kBlockColumns + c) * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec row = load(left + (t * kBlockRows + r) * kWidth);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = fma(row, columns[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      S* to = out + r * row_stride + c * kPanelOf<S>;
      store(to, first ? acc[r][c] : load(to) + acc[r][c]);
    }
  }
}

template <int R, class S>
GEOMFAST_INLINE void gradient_rows(const S* left, const S* right, long length, long columns,
                                   bool first, S* out, long row_stride) {
  if (columns >= 3) return gradient_block<R, 3>(left, right, length, first, out, row_stride);
  if (columns == 2) return gradient_block<R, 2>(left, right, length, first, out, row_stride);
  gradient_block<R, 1>(left, right, length, first, out, row_stride);
}

template <class S>
void gradients(const void* left, const void* right, long length, long rows, long columns,
               bool first, void* out) {
  constexpr int kWidth = kWidthOf<S>, kSide = kPanelOf<S>;
  const long row_stride = columns * kSide;
  for (long t0 = 0; t0 < length; t0 += kPositions) {
    const long now = length - t0 < kPositions ? length - t0 : kPositions;
    const bool begin = first && t0 == 0;
    for (long r = 0; r < rows; r += kBlockRows) {
      const S* a = static_cast<const S*>(left) + (r * length + t0 * kBlockRows) * kWidth;
      for (long c = 0; c < columns; c += kBlockColumns) {
        const S* b = static_cast<const S*>(right) + (c * length + t0 * kBlockColumns) * kWidth;
        S* to = static_cast<S*>(out) + r * row_stride + c * kSide;
        switch (rows - r) {
          case 1: gradient_rows<1>(a, b, now, columns - c, begin, to, row_stride); break;
          case 2: gradient_rows<2>(a, b, now, columns - c, begin, to, row_stride); break;
          case 3: gradient_rows<3>(a, b, now, columns - c, begin, to, row_stride); break;
          default: gradient_rows<4>(a, b, now, columns - c, begin, to, row_stride);
        }
      }
    }
  }
}

template <class S>
void centre(void* gradients, long samples, long size, long first, long last) {
  constexpr int kSide = kPanelOf<S>;
  for (long entry = first; entry < last; ++entry) {
    S* begin = static_cast<S*>(gradients) + entry * kSide;
    const auto lanes = [&](long i) { return samples - i < kSide ? samples - i : kSide; };
    double mean = 0.0;
    for (long i = 0; i < samples; i += kSide) {
      const S* g = begin + i / kSide * size;
      for (long lane = 0; lane < lanes(i); ++lane) mean += static_cast<double>(g[lane]);
    }
    mean /= static_cast<double>(samples);
    for (long i = 0; i < samples; i += kSide) {
      S* g = begin + i / kSide * size;
      for (long lane = 0; lane < lanes(i); ++lane) {
        // In float64: the mean rounded to float32 is off by more than small deviations from it.
        g[lane] = static_cast<S>(static_cast<double>(g[lane]) - mean);
      }
    }
  }
}

template <class S>
void add_products(const void* a, const void* b, long samples, long entries, double* tile) {
  const long rows = round_up(samples, kTileRows);
  Tile<S> now;
  products(static_cast<const S*>(a), static_cast<const S*>(b), rows, entries, now);
  add(now, rows, tile);
}

template <class S>
constexpr geomfast::GradientGramKernel kKernel = {
    kPanelOf<S>, kWidthOf<S>, pack_position<S>, ghost_tile<S>, pack_factor<S>,
    gradients<S>, centre<S>,  add_products<S>};

}  // namespace

namespace geomfast {
extern const GradientGramKernels GEOMFAST_JOIN(gradient_gram_, GEOMFAST_ISA_NAME);
const GradientGramKernels GEOMFAST_JOIN(gradient_gram_, GEOMFAST_ISA_NAME) = {
    GEOMFAST_STRING(GEOMFAST_ISA_NAME), {kKernel<float>, kKernel<double>}};
}  // namespace geomfast
