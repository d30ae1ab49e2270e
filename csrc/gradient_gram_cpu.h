// What the dispatcher and the per-instruction-set kernels of the gradients' Gram matrix share.
#pragma once

#include "spectra_cpu.h"  // DType

namespace geomfast {

// A factor (N, length, width) with contiguous rows; strides in elements.
struct Factor {
  const void* data;
  long sample_stride, position_stride;
};

// One use of a parameter: the gradient of sample i is left[i]^T right[i]. Left factors that are
// one-hot have no data but contiguous indices (N, length).
struct GradientUse {
  Factor left;
  const long long* indices;
  Factor right;
  long length;
};

// One position of one use, and where a packed panel holds it, in elements from the panel's start.
struct PanelPosition {
  const GradientUse* use;
  long position, left, right;
};

struct PanelLayout {
  long samples, rows, columns;
  const PanelPosition* positions;
  long count;
  long size;  // of a panel, in elements
};

constexpr int kLargestPanel = 32;  // samples
constexpr int kBlockRows = 4, kBlockColumns = 3;  // of left and right factors packed together

// One instruction set's kernels for one type S. Panels are `panel` samples beside one another,
// vectors `width` of them; memory is aligned to 64 bytes.
struct GradientGramKernel {
  int panel, width;

  // Ghost products: packs one position of all uses of panel `index`, as [entry][panel].
  void (*pack_position)(const PanelLayout& layout, long index, long position, void* packed);
  // Writes tile [panel][panel] = K_ij, i of the first panel's `samples`, j of the second panel;
  // `diagonal` where they are the same.
  void (*ghost_tile)(const PanelLayout& layout, const void* a, const void* b, long samples,
                     bool diagonal, double* tile);

  // Materialised gradients: packs entries [first, first + count) of a use's left or right factor
  // for the samples of vector `index`, as [block][length][entry of the block][width].
  void (*pack_factor)(const GradientUse& use, bool left, long samples, long index, long first,
                      long count, void* packed);
  // One vector's gradients = (or, not `first`, +=) left^T right, into [row][column][panel].
  void (*gradients)(const void* left, const void* right, long length, long rows, long columns,
                    bool first, void* out);
  // Subtracts the mean over all samples from entries [first, last); panels are `size` apart.
  void (*centre)(void* gradients, long samples, long size, long first, long last);
  // tile [panel][panel] += the products of two panels' gradients.
  void (*add_products)(const void* a, const void* b, long samples, long entries, double* tile);
};

struct GradientGramKernels {
  const char* name;
  GradientGramKernel of_type[2];  // by DType
};

extern const GradientGramKernels gradient_gram_avx512;
extern const GradientGramKernels gradient_gram_avx2;
extern const GradientGramKernels gradient_gram_portable;

// The kernels to use; isa is "" for the best ones here. Null if unknown or not runnable here.
const GradientGramKernels* gradient_gram_kernels(const char* isa);

// All uses of one parameter of (rows, columns).
struct GradientGramJob {
  DType type;
  long samples, rows, columns;
  const GradientUse* uses;
  long count;
  long max_bytes;  // for packed factors, as far as the smallest tiles allow
  double* out;     // (samples, samples), symmetric
};

void ghost_gram(const GradientGramJob& job, const GradientGramKernels& kernels, int threads);
void materialised_gram(const GradientGramJob& job, const GradientGramKernels& kernels,
                       bool centred, int threads);

}  // namespace geomfast
