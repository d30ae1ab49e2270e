// A team of threads that works on one matrix in phases, written once for the GPU and for the CPU.
//
// An algorithm is a sequence of phases; between two of them every thread has seen what all others
// wrote. Code outside a phase is uniform: every thread runs it with the same values.
//
//   team.each(f)             f(thread) for every thread, then a barrier
//   team.sum(f)              the sum of f(thread) over the team; counts as a phase
//   team.largest(f)          likewise the largest
//   team.size                number of threads
//   team.warp                threads that run in step; consecutive lanes should read neighbours
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
  GEOMFAST_TEAM double operator()(double a, double b) const { return a + b; }
};
struct Larger {
  GEOMFAST_TEAM double operator()(double a, double b) const { return a > b ? a : b; }
};

// What every team's `reduce(f, op)` gives.
template <class Team>
struct Reductions {
  template <class F>
  GEOMFAST_TEAM double sum(F f) {
    return static_cast<Team*>(this)->reduce(f, Add());
  }
  template <class F>
  GEOMFAST_TEAM double largest(F f) {
    return static_cast<Team*>(this)->reduce(f, Larger());
  }
};

#if defined(__CUDACC__)

template <class Op>
GEOMFAST_TEAM double warp_reduce(double x, Op op) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// The threads of one block. `shared` holds two sets of 32 partial sums: with one, a fast warp could
// overwrite a sum that a slow one has yet to read.
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
  GEOMFAST_TEAM double reduce(F f, Op op) {
    double* partial = shared + 32 * turn;
    turn ^= 1;
    const double own = warp_reduce(f(thread), op);
    if (thread % 32 == 0) partial[thread / 32] = own;
    __syncthreads();
    double total = partial[0];
    for (int i = 1; i < size / 32; ++i) total = op(total, partial[i]);
    return total;
  }
};

// The threads of a cluster of blocks (sm_90). What they share lies in global memory; `slots` there
// holds two sets of one partial sum per block. Waiting at the cluster's barrier releases and
// acquires, so that weak accesses before and after it are ordered.
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
  GEOMFAST_TEAM double reduce(F f, Op op) {
    double* partial = slots + blocks * turn;
    turn ^= 1;
    const double own = warp_reduce(f(thread), op);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
      double total = shared[0];
      for (int i = 1; i < static_cast<int>(blockDim.x) / 32; ++i) total = op(total, shared[i]);
      partial[block] = total;
    }
    barrier();  // also keeps the next reduction's writes to `shared` after these reads
    double total = partial[0];
    for (int i = 1; i < blocks; ++i) total = op(total, partial[i]);
    return total;
  }
};

#else

enum class Order : int { kForward = 0, kBackward = 1, kShuffled = 2 };

// The same phases on the CPU: for tests.
struct HostTeam : Reductions<HostTeam> {
  static constexpr int warp = 32;
  int size;
  Order order;

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
  // Combines in the order of the threads, whatever order they run in: the order must not show.
  template <class F, class Op>
  double reduce(F f, Op op) {
    partial.resize(static_cast<unsigned long>(size));
    for (int turn = 0; turn < size; ++turn) {
      const int thread = at(turn);
      partial[static_cast<unsigned long>(thread)] = f(thread);
    }
    double total = partial[0];
    for (unsigned long i = 1; i < partial.size(); ++i) total = op(total, partial[i]);
    return total;
  }
  std::vector<double> partial;
};

#endif

}  // namespace geomfast
