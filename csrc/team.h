// A team of threads that works on one matrix in phases, written once for the GPU and for the CPU.
//
// An algorithm is a sequence of phases; between two of them every thread has seen what all others
// wrote. Code outside a phase is uniform: every thread runs it with the same values.
//
//   team.each(f)             f(thread) for every thread, then a barrier
//   team.gather(n, op, f)    f(thread) for threads below n combined by op, warp by warp; a phase.
//                            f may run for more, up to a whole warp, and gives op::neutral there
//   team.total(parts)        what gather found, combined: inside phases too, the same bits for all.
//                            Parts live until the second gather after theirs begins
//   team.sum(f)              the sum of f(thread) over the team: gather and total
//   team.largest(f)          likewise the largest
//   team.size                number of threads
//   team.warp                threads that run in step; consecutive lanes should read neighbours
//
// Sums have one order, that of `warp_combine` and `combine`, on a GPU's block and on the CPU.
//
// On a GPU a team is one block, or a cluster of blocks; on the CPU the threads of a phase run one
// after the other in an order that a test chooses. A phase in which one thread reads what another
// writes gives other results in another order: that is how tests find a missing barrier.
#pragma once

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#define GEOMFAST_TEAM __device__ __forceinline__
#define GEOMFAST_UNROLL _Pragma("unroll")
#else
#include <vector>
#define GEOMFAST_TEAM inline
#define GEOMFAST_UNROLL _Pragma("GCC unroll 8")
#endif

namespace geomfast {

struct Add {
  static constexpr double neutral = 0.0;
  GEOMFAST_TEAM double operator()(double a, double b) const { return a + b; }
};
struct Larger {
  static constexpr double neutral = -0x1.fffffffffffffp1023;
  GEOMFAST_TEAM double operator()(double a, double b) const { return a > b ? a : b; }
};

// x[0], x[stride], ... by a tree of `Width` at a time: all loads leave together, and the chain of
// dependent operations is log2(Width) long where one after the other would be `count`.
template <int Width, class Op>
GEOMFAST_TEAM double combine(const double* x, int count, int stride, Op op) {
  double total = Op::neutral;
  for (int first = 0; first < count; first += Width) {
    double y[Width];
    GEOMFAST_UNROLL
    for (int k = 0; k < Width; ++k) {
      y[k] = first + k < count ? x[(first + k) * stride] : Op::neutral;
    }
    GEOMFAST_UNROLL
    for (int step = 1; step < Width; step *= 2) {
      GEOMFAST_UNROLL
      for (int k = 0; k + step < Width; k += 2 * step) y[k] = op(y[k], y[k + step]);
    }
    total = op(total, y[0]);
  }
  return total;
}

// What a gather left behind: one value per warp or, of a cluster, per block.
template <class Op>
struct Parts {
  const double* parts = nullptr;
  int count = 0;
};

// What follows from every team's `gather(n, op, f)`.
template <class Team>
struct Reductions {
  template <class Op>
  GEOMFAST_TEAM double total(Parts<Op> from) const {
    return combine<8>(from.parts, from.count, 1, Op());
  }
  template <class F>
  GEOMFAST_TEAM double sum(F f) {
    Team& team = *static_cast<Team*>(this);
    return total(team.gather(team.size, Add(), f));
  }
  template <class F>
  GEOMFAST_TEAM double largest(F f) {
    Team& team = *static_cast<Team*>(this);
    return total(team.gather(team.size, Larger(), f));
  }
};

#if defined(__CUDACC__)

template <class Op>
GEOMFAST_TEAM double warp_combine(double x, Op op) {
  GEOMFAST_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// The first `active` threads' values of one block, one per warp, to shared[0 .. result). Warps
// without any skip their shuffles, and nobody reads what they would have written.
template <class F, class Op>
GEOMFAST_TEAM int combine_warps(double* shared, int active, int thread, Op op, F f) {
  const int here = active < static_cast<int>(blockDim.x) ? active : static_cast<int>(blockDim.x);
  const int warps = here > 0 ? (here + 31) / 32 : 0;
  const int own_warp = static_cast<int>(threadIdx.x) / 32;
  if (own_warp < warps) {
    const double own = warp_combine(f(thread), op);
    if (threadIdx.x % 32 == 0) shared[own_warp] = own;
  }
  return warps;
}

// The threads of one block, a multiple of 32. `shared` holds two sets of 32 parts: with one, a fast
// warp could overwrite a part that a slow one has yet to read. A set is written again two gathers
// later, and the barrier of the gather between lies behind every read of it.
struct BlockTeam : Reductions<BlockTeam> {
  static constexpr int warp = 32;
  int size, thread;
  double* shared;
  int turn = 0;

  GEOMFAST_TEAM explicit BlockTeam(double* scratch)
      : size(static_cast<int>(blockDim.x)), thread(static_cast<int>(threadIdx.x)),
        shared(scratch) {}

  template <class F>
  GEOMFAST_TEAM void each(F f) {
    f(thread);
    __syncthreads();
  }
  template <class F, class Op>
  GEOMFAST_TEAM Parts<Op> gather(int active, Op op, F f) {
    double* parts = shared + 32 * turn;
    turn ^= 1;
    const int warps = combine_warps(parts, active, thread, op, f);
    __syncthreads();
    return {parts, warps};
  }
};

// The threads of a cluster of blocks (sm_90). What they share lies in global memory; `slots` there
// holds two sets of one part per block. Waiting at the cluster's barrier releases and acquires, so
// that weak accesses before and after it are ordered.
struct ClusterTeam : Reductions<ClusterTeam> {
  static constexpr int warp = 32;
  int size, thread;
  double *shared, *slots;
  int blocks, block, turn = 0;

  GEOMFAST_TEAM ClusterTeam(double* scratch, double* global_slots)
      : shared(scratch), slots(global_slots) {
#if __CUDA_ARCH__ >= 900
    blocks = static_cast<int>(cooperative_groups::this_cluster().num_blocks());
    block = static_cast<int>(cooperative_groups::this_cluster().block_rank());
#else
    blocks = 1;
    block = 0;
#endif
    size = blocks * static_cast<int>(blockDim.x);
    thread = block * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
  }

  GEOMFAST_TEAM void barrier() {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#else
    __syncthreads();
#endif
  }
  template <class F>
  GEOMFAST_TEAM void each(F f) {
    f(thread);
    barrier();
  }
  template <class F, class Op>
  GEOMFAST_TEAM Parts<Op> gather(int active, Op op, F f) {
    double* parts = slots + blocks * turn;
    turn ^= 1;
    const int before = block * static_cast<int>(blockDim.x);
    const int warps = combine_warps(shared, active - before, thread, op, f);
    __syncthreads();
    if (threadIdx.x == 0) parts[block] = combine<8>(shared, warps, 1, op);
    barrier();  // also keeps the next gather's writes to `shared` after these reads
    return {parts, blocks};
  }
};

#else

enum class Order : int { kForward = 0, kBackward = 1, kShuffled = 2 };

// The same phases on the CPU, by as many threads as a block may have: for tests.
struct HostTeam : Reductions<HostTeam> {
  static constexpr int warp = 32;
  int size;
  Order order;

  HostTeam(int threads, Order how) : size(threads), order(how) {}

  // The thread whose turn it is; 7919 is prime, and so visits all of them unless it divides size.
  int at(int turn) const {
    if (order == Order::kBackward) return size - 1 - turn;
    if (order == Order::kShuffled) return static_cast<int>((turn * 7919L + size / 3) % size);
    return turn;
  }
  template <class F>
  void each(F f) {
    for (int turn = 0; turn < size; ++turn) f(at(turn));
  }
  // Combines as a block does, whatever order the threads run in: the order must not show. The set
  // that is being written holds NaN, so that a phase that reads its own sum is found out.
  template <class F, class Op>
  Parts<Op> gather(int active, Op op, F f) {
    const int warps = ((active < size ? active : size) + warp - 1) / warp;
    double* parts = sets[set];
    set ^= 1;
    for (int i = 0; i < kMostWarps; ++i) parts[i] = __builtin_nan("");
    std::vector<double> own(static_cast<unsigned long>(size), Op::neutral);
    for (int turn = 0; turn < size; ++turn) {
      const int thread = at(turn);
      if (thread / warp < warps) own[static_cast<unsigned long>(thread)] = f(thread);
    }
    for (int i = 0; i < warps; ++i) parts[i] = warp_combine(own.data() + i * warp, op);
    return {parts, warps};
  }

  // What the exchange between lanes of a GPU's warp gives to each of them.
  template <class Op>
  static double warp_combine(double* x, Op op) {
    for (int offset = warp / 2; offset > 0; offset /= 2) {
      for (int lane = 0; lane < offset; ++lane) x[lane] = op(x[lane], x[lane + offset]);
    }
    return x[0];
  }

 private:
  static constexpr int kMostWarps = 32;
  double sets[2][kMostWarps];
  int set = 0;
};

#endif

}  // namespace geomfast
