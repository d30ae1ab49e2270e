// What the dispatcher and the per-instruction-set kernels of Langevin steps share.
#pragma once

namespace geomfast {

// Counters whose four numbers each make one group of noise: entry k * 32 + j of a group comes from
// number k of counter j. See geomfast/kernels/sgld/README.md.
constexpr int kCounters = 32;
constexpr int kGroup = 4 * kCounters;

// Which noise: numbers of Philox4x32-10 with the seed as its key, and (counter, chain, step).
struct NoiseStream {
  unsigned long long seed, step;
  unsigned chain;
};

constexpr int kStatistics = 4;

// One step of one chain: w += -drift + spread * noise, drift = pull * g + back * (w - center). With a
// velocity u: u -= drift, w += u, u = keep * u + spread * noise, w += u.
struct SgldRow {
  float* weights;
  const float* gradients;
  const float* center;
  float* previous;  // receives the weights before the step, and held those before; or null
  float* velocity;  // half of what a step moves by; null without momentum
  NoiseStream stream;
  float pull, back, spread;
  float keep;  // of the velocity, from step to step
};

struct SgldKernel {
  const char* name;
  // Entries [first, last) of a row, first a multiple of kGroup, last too or the row's end. Adds
  // |w - center|^2, |drift|^2, (w - previous) . drift and kick . drift, all of them before the
  // step, to statistics; the kick is the scaled noise. With a velocity u and the loss's share of the
  // drift, l = pull * g: |w - center|^2, l . drift, l . (w - center) and l . u.
  void (*step)(const SgldRow& row, long first, long last, double* statistics);
  // Normal numbers of entries [first, last), first a multiple of kGroup, into out.
  void (*normals)(const NoiseStream& stream, long first, long last, float* out);
  // The numbers themselves, for known-answer tests.
  void (*philox)(const unsigned counter[4], const unsigned key[2], unsigned out[4]);
};

extern const SgldKernel sgld_avx512;
extern const SgldKernel sgld_avx2;
extern const SgldKernel sgld_portable;

// The kernel to use; isa is "" for the best one here. Null if unknown or not runnable here.
const SgldKernel* sgld_kernel(const char* isa);

// One step of all chains, whose rows lie `size` apart.
struct SgldJob {
  SgldRow first;                // of the first chain
  const unsigned char* active;  // (chains): a chain that is not stays as it is; null for all
  long chains, size;
  double* statistics;  // (chains, kStatistics)
};

void sgld_step(const SgldJob& job, const SgldKernel& kernel, int threads);

}  // namespace geomfast
