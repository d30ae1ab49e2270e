// Float64 Gram matrix of the smaller side of one matrix: lower triangle, row-major.
//
// The input is converted and packed once per block of the long side into panels of kPanel columns,
// [panel][k][kPanel]; a tile of kTileRows x kPanel results stays in registers for the whole block.

namespace {

template <class S>
constexpr int kPanelOf = kTileVectors * kWidthOf<S>;
constexpr int kPanel = kPanelOf<double>;
constexpr long kBlock = 128;  // of the long side: a panel (12 KiB) twice in L1, all panels in L2
static_assert(kPanel % kTileRows == 0 && kPanel % 4 == 0, "tile shapes must nest");

GEOMFAST_INLINE long round_up(long x, long to) { return (x + to - 1) / to * to; }

// Packs kc entries of each of `lanes` rows of x, of which n exist: out[k * out_stride + row].
template <int lanes, class T, class S>
GEOMFAST_INLINE void pack_lanes(const T* x, long stride, long n, long kc, double scale, S* out,
                                long out_stride) {
  constexpr int kGroup = lanes % 4 == 0 ? 4 : 2;
  for (long r = 0; r < lanes; r += kGroup) {
    const T* rows[4];
    double scales[4];
    for (long i = 0; i < kGroup; ++i) {
      // Rows beyond the end read the last one and count for nothing.
      const long row = r + i;
      rows[i] = x + (row < n ? row : n - 1) * stride;
      scales[i] = row < n ? scale : 0.0;
    }
    long k = 0;
    if constexpr (kGroup == 4) {
      for (; k + 4 <= kc; k += 4) {
        transpose_4x4(rows, scales, out + k * out_stride + r, out_stride);
        for (int i = 0; i < 4; ++i) rows[i] += 4;
      }
    }
    for (; k < kc; ++k) {
      for (int i = 0; i < kGroup; ++i) {
        out[k * out_stride + r + i] = static_cast<S>(scales[i]) * static_cast<S>(*rows[i]++);
      }
    }
  }
}

// Packs entries [k0, k0 + kc) of the n rows of x: the smaller side is the strided one.
template <class T>
void pack_rows(const T* x, long stride, long n, long k0, long kc, double scale, double* packed) {
  for (long panel = 0; panel < n; panel += kPanel) {
    pack_lanes<kPanel>(x + panel * stride + k0, stride, n - panel, kc, scale, packed + panel * kc,
                       kPanel);
  }
}

// Packs rows [k0, k0 + kc) of x: the smaller side is the contiguous one, of length n.
template <class T>
void pack_columns(const T* x, long stride, long n, long k0, long kc, double scale,
                  double* packed) {
  for (long panel = 0; panel < n; panel += kPanel) {
    double* out = packed + panel * kc;
    const T* row = x + k0 * stride + panel;
    if (panel + kPanel <= n) {
      for (long k = 0; k < kc; ++k, row += stride, out += kPanel) {
        for (int c = 0; c < kPanel; ++c) out[c] = scale * static_cast<double>(row[c]);
      }
    } else {
      for (long k = 0; k < kc; ++k, row += stride, out += kPanel) {
        for (long c = 0; c < kPanel; ++c) {
          out[c] = panel + c < n ? scale * static_cast<double>(row[c]) : 0.0;
        }
      }
    }
  }
}

// gram[kTileRows x kPanelOf<S>] (+)= a^T b over kc packed entries.
template <class S>
GEOMFAST_INLINE void gram_tile(const S* a, const S* b, long kc, S* gram, long ld, bool first) {
  using Vec = VecOf<S>;
  constexpr int kPanel = kPanelOf<S>, kWidth = kWidthOf<S>;
  Vec acc[kTileRows][kTileVectors] = {};
#pragma GCC unroll 4
  for (long k = 0; k < kc; ++k) {
    Vec columns[kTileVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) columns[v] = load(b + k * kPanel + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const Vec row = broadcast(a[k * kPanel + r]);
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) acc[r][v] = fma(row, columns[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) {
      S* out = gram + r * ld + v * kWidth;
      store(out, first ? acc[r][v] : load(out) + acc[r][v]);
    }
  }
}

// gram: round_up(n, kPanel) rows of ld; tiles on and below the diagonal are written, with zeros
// beyond n.
template <class T>
void gram_matrix(const T* x, long rows, long cols, long stride, double scale, double* packed,
                 double* gram, long ld) {
  const bool wide = rows <= cols;
  const long n = wide ? rows : cols, length = wide ? cols : rows;
  const long padded = round_up(n, kPanel);
  for (long k0 = 0; k0 < length; k0 += kBlock) {
    const long kc = length - k0 < kBlock ? length - k0 : kBlock;
    if (wide) {
      pack_rows(x, stride, n, k0, kc, scale, packed);
    } else {
      pack_columns(x, stride, n, k0, kc, scale, packed);
    }
    for (long j = 0; j < padded; j += kPanel) {
      for (long i = j; i < padded; i += kTileRows) {
        const long panel = i / kPanel * kPanel;
        gram_tile(packed + panel * kc + (i - panel), packed + j * kc, kc, gram + i * ld + j, ld,
                  k0 == 0);
      }
    }
  }
}

}  // namespace
