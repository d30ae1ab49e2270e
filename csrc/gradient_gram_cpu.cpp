// Gram matrix of per-sample gradients on the CPU: instruction set, memory, threads over tiles.
#include "gradient_gram_cpu.h"

#include <algorithm>
#include <cstring>

#include "isa.h"
#include "workers.h"

namespace geomfast {
namespace {

const GradientGramKernels* const kKernels[] = {
#ifndef GEOMFAST_NO_X86
    &gradient_gram_avx512, &gradient_gram_avx2,
#endif
    &gradient_gram_portable};

constexpr long kEntries = 384;   // of a chunk of gradients: of 200 samples they fit L2
constexpr long kChunkRows = 16;  // near the root of that, for which factors are read least often
constexpr long kPartRows = 64;   // packed together, by as many columns as max_bytes allows: where
                                 // those are all, every factor is packed once

long divide_up(long x, long by) { return (x + by - 1) / by; }

long bytes_of(DType type) { return type == DType::kFloat32 ? 4 : 8; }

long whole_lines(long elements, DType type) {
  const long line = 64 / bytes_of(type);
  return divide_up(elements, line) * line;
}

// A tile on or below the diagonal: its panels of rows and of columns.
struct Pair {
  long row, column;
};

std::vector<Pair> lower_pairs(long panels) {
  std::vector<Pair> pairs;
  for (long i = 0; i < panels; ++i) {
    for (long j = 0; j <= i; ++j) pairs.push_back({i, j});
  }
  return pairs;
}

// Copies a tile and its mirror image into the Gram matrix.
void write_tile(const GradientGramJob& job, long panel, Pair pair, const double* tile) {
  const long i0 = pair.row * panel, j0 = pair.column * panel;
  for (long i = i0; i < std::min(i0 + panel, job.samples); ++i) {
    for (long j = j0; j < std::min(j0 + panel, i + 1); ++j) {
      job.out[i * job.samples + j] = job.out[j * job.samples + i] =
          tile[(i - i0) * panel + j - j0];
    }
  }
}

std::vector<PanelPosition> positions_of(const GradientGramJob& job, long panel, long& size) {
  std::vector<PanelPosition> positions;
  size = 0;
  for (long u = 0; u < job.count; ++u) {
    const GradientUse& use = job.uses[u];
    for (long t = 0; t < use.length; ++t) {
      const long left = size;
      size += whole_lines(panel * (use.indices == nullptr ? job.rows : 1), job.type);
      positions.push_back({&use, t, left, size});
      size += whole_lines(panel * job.columns, job.type);
    }
  }
  return positions;
}

// How the parameter is cut: into parts whose factors are packed, and parts into chunks whose
// gradients are made.
struct Cut {
  long part_rows, part_columns, rows, columns;

  Cut(const GradientGramJob& job, long bytes_per_side) {
    part_rows = whole_blocks(job.rows, kPartRows, kBlockRows);
    const long others = std::max(job.max_bytes / bytes_per_side - part_rows, kPartRows);
    part_columns = whole_blocks(job.columns, others, kBlockColumns);
    rows = whole_blocks(part_rows, kChunkRows, kBlockRows);
    columns = whole_blocks(part_columns, kEntries / rows, kBlockColumns);
    rows = whole_blocks(part_rows, kEntries / columns, kBlockRows);
  }

 private:
  // At most `most` of `all` entries, without cutting a block.
  static long whole_blocks(long all, long most, long block) {
    return all <= most ? all : std::max(most / block, 1L) * block;
  }
};

}  // namespace

const GradientGramKernels* gradient_gram_kernels(const char* isa) {
  return kernel_for_isa(kKernels, isa);
}

void ghost_gram(const GradientGramJob& job, const GradientGramKernels& kernels, int threads) {
  const GradientGramKernel& kernel = kernels.of_type[static_cast<int>(job.type)];
  const long panel = kernel.panel, panels = divide_up(job.samples, panel);
  PanelLayout layout{job.samples, job.rows, job.columns, nullptr, 0, 0};
  const std::vector<PanelPosition> positions = positions_of(job, panel, layout.size);
  layout.positions = positions.data();
  layout.count = static_cast<long>(positions.size());
  // All panels packed at once where they fit, else groups of them, two at a time.
  const long bytes = layout.size * bytes_of(job.type);
  const bool fits = panels * bytes <= job.max_bytes;
  const long group = fits ? panels : std::clamp(job.max_bytes / (2 * bytes), 1L, panels);
  const AlignedBytes memory_a = aligned_bytes(group * bytes);
  const AlignedBytes memory_b = aligned_bytes(fits ? 0 : group * bytes);

  const auto pack = [&](Workers& workers, char* memory, long first) {
    const long count = std::min(group, panels - first);
    workers.share(count * layout.count, [&](long i) {
      const long index = i / layout.count;
      kernel.pack_position(layout, first + index, i % layout.count, memory + index * bytes);
    });
  };
  const auto tile = [&](Pair pair, const char* a, const char* b) {
    alignas(64) double result[kLargestPanel * kLargestPanel];
    kernel.ghost_tile(layout, a, b, std::min(panel, job.samples - pair.row * panel),
                      pair.row == pair.column, result);
    write_tile(job, panel, pair, result);
  };
  const std::vector<Pair> triangle = lower_pairs(group);
  // More threads than tiles would only be started and stopped.
  Workers::run(std::min<long>(threads, triangle.size()), [&](Workers& workers, long) {
    for (long i = 0; i < panels; i += group) {
      const long rows = std::min(group, panels - i);
      char *a = memory_a.get(), *b = memory_b.get();
      pack(workers, a, i);
      workers.share(rows * (rows + 1) / 2, [&](long t) {
        const Pair in_group = triangle[t];
        tile({i + in_group.row, i + in_group.column}, a + in_group.row * bytes,
             a + in_group.column * bytes);
      });
      for (long j = 0; j < i; j += group) {
        pack(workers, b, j);
        workers.share(rows * group, [&](long t) {
          tile({i + t / group, j + t % group}, a + t / group * bytes, b + t % group * bytes);
        });
      }
    }
  });
}

void materialised_gram(const GradientGramJob& job, const GradientGramKernels& kernels,
                       bool centred, int threads) {
  const GradientGramKernel& kernel = kernels.of_type[static_cast<int>(job.type)];
  const long panel = kernel.panel, panels = divide_up(job.samples, panel);
  const long width = kernel.width, vectors = divide_up(job.samples, width);
  const long element = bytes_of(job.type);
  long length = 0;
  for (long u = 0; u < job.count; ++u) length += job.uses[u].length;
  const Cut cut(job, vectors * width * length * element);
  const std::vector<Pair> pairs = lower_pairs(panels);
  const long triangle = static_cast<long>(pairs.size());

  const long left_entries = divide_up(cut.part_rows, kBlockRows) * kBlockRows;
  const long right_entries = divide_up(cut.part_columns, kBlockColumns) * kBlockColumns;
  const AlignedBytes left = aligned_bytes(vectors * width * length * left_entries * element);
  const AlignedBytes right = aligned_bytes(vectors * width * length * right_entries * element);
  const long chunk_panel = whole_lines(panel * cut.rows * cut.columns, job.type);
  const AlignedBytes chunk = aligned_bytes(panels * chunk_panel * element);
  // Lanes beyond the last vector are never written: they must not hold NaN.
  std::memset(chunk.get(), 0, panels * chunk_panel * element);
  std::vector<double> tiles(triangle * panel * panel, 0.0);

  // One vector's factors of one use.
  const auto factor = [&](bool is_left, long use, long vector) {
    long before = 0;
    for (long u = 0; u < use; ++u) before += job.uses[u].length;
    const long positions = vectors * before + vector * job.uses[use].length;
    return (is_left ? left : right).get() +
           positions * (is_left ? left_entries : right_entries) * width * element;
  };
  const auto pack = [&](Workers& workers, bool is_left, long first, long count) {
    workers.share(job.count * vectors, [&](long i) {
      const long use = i / vectors, vector = i % vectors;
      kernel.pack_factor(job.uses[use], is_left, job.samples, vector, first, count,
                         factor(is_left, use, vector));
    });
  };
  Workers::run(std::min<long>(threads, triangle), [&](Workers& workers, long) {
    for (long c0 = 0; c0 < job.columns; c0 += cut.part_columns) {
      const long part_columns = std::min(cut.part_columns, job.columns - c0);
      pack(workers, false, c0, part_columns);
      for (long r0 = 0; r0 < job.rows; r0 += cut.part_rows) {
        const long part_rows = std::min(cut.part_rows, job.rows - r0);
        pack(workers, true, r0, part_rows);
        for (long r = 0; r < part_rows; r += cut.rows) {
          const long rows = std::min(cut.rows, part_rows - r);
          for (long c = 0; c < part_columns; c += cut.columns) {
            const long columns = std::min(cut.columns, part_columns - c);
            workers.share(vectors, [&](long v) {
              char* out = chunk.get() + v * width / panel * chunk_panel * element +
                          v * width % panel * element;
              for (long u = 0; u < job.count; ++u) {
                const long entry = job.uses[u].length * width * element;
                kernel.gradients(factor(true, u, v) + r * entry,
                                 factor(false, u, v) + c * entry,
                                 job.uses[u].length, rows, columns, u == 0, out);
              }
            });
            if (centred) {
              workers.share(rows, [&](long row) {
                kernel.centre(chunk.get(), job.samples, chunk_panel, row * columns,
                              (row + 1) * columns);
              });
            }
            workers.share(triangle, [&](long t) {
              const Pair pair = pairs[t];
              kernel.add_products(chunk.get() + pair.row * chunk_panel * element,
                                  chunk.get() + pair.column * chunk_panel * element,
                                  std::min(panel, job.samples - pair.row * panel),
                                  rows * columns, tiles.data() + t * panel * panel);
            });
          }
        }
      }
    }
    workers.share(triangle, [&](long t) {
      write_tile(job, panel, pairs[t], tiles.data() + t * panel * panel);
    });
  });
}

}  // namespace geomfast
