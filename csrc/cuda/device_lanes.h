// The threads of a block: teams of lanes, each of which works on one row (aeppt/lanes.h), and warps
// that work on products together. Each call ends in a barrier of those who took part, so that what
// one thread wrote the others read.
//
// Beyond what every engine's lanes offer, a team has
//   compact(n, keep, emit)   emit(j, place) for each j that is kept, places in order; how many
//   once(f)                  what f() gives, in one lane that calls it
//
// A block may be one of a cluster. Then all its blocks do the same, each in shared memory of its
// own, but for products: these they divide, and store every output in the memory of each.
#pragma once

#include <cstdint>
#include <type_traits>

#include "aeppt/lanes.h"
#ifdef __CUDACC__
#include <cooperative_groups.h>
#else
#include "emulated.h"
#endif

namespace aeppt::AEPPT_VARIANT {

constexpr int kWarp = 32;
#ifdef AEPPT_WATCHED
constexpr int kThreads = 64;  // ThreadSanitizer tells no more than 255 apart, of two blocks here
#else
constexpr int kThreads = 256;  // of a block
#endif

#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 900
__device__ inline int cluster_size() { return cooperative_groups::this_cluster().num_blocks(); }
__device__ inline int cluster_rank() { return cooperative_groups::this_cluster().block_rank(); }
__device__ inline void cluster_sync() { cooperative_groups::this_cluster().sync(); }
// Where another block has what this one has at `own` in shared memory.
template <typename T>
__device__ T* in_block(T* own, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(own, rank);
}
#else
__device__ inline int cluster_size() { return 1; }
__device__ inline int cluster_rank() { return 0; }
__device__ inline void cluster_sync() {}
template <typename T>
__device__ T* in_block(T* own, int) {
  return own;
}
#endif
#endif

// A warp, or the part of one that works on a row.
template <int kLanes>
struct WarpLanes {
  static_assert(kLanes <= kWarp && kWarp % kLanes == 0);

  __device__ static int lane() { return threadIdx.x % kLanes; }
  __device__ static int shift() { return threadIdx.x % kWarp / kLanes * kLanes; }
  __device__ static unsigned mask() { return (~0u >> (kWarp - kLanes)) << shift(); }
  __device__ static unsigned ballot(bool vote) {
    return (__ballot_sync(mask(), vote) & mask()) >> shift();
  }

  template <typename F>
  __device__ void each(Index n, F f) const {
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kLanes) f(j);
    __syncwarp(mask());
  }
  template <typename F>
  __device__ void each_padded(Index n, F f) const {
    each(n, f);
  }
  template <typename F>
  __device__ double sum(Index n, F f) const {
    double part = 0;
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kLanes) part += f(j);
    __syncwarp(mask());
    return total(part);
  }
  template <typename F, typename G>
  __device__ Sums sums(Index n, F f, G g) const {
    Sums part{0, 0};
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kLanes) {
      part.first += f(j);
      part.second += g(j);
    }
    __syncwarp(mask());
    return {total(part.first), total(part.second)};
  }
  template <typename F>
  __device__ auto max(Index n, F f) const {
    auto highest = f(0);
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kLanes) highest = f(j) > highest ? f(j) : highest;
    return greatest(highest);
  }
  template <typename F>
  __device__ Index first(Index n, F f) const {
    for (Index base = 0; base < n; base += kLanes) {
      const unsigned found = ballot(base + lane() < n && f(base + lane()));
      if (found != 0) return base + __ffs(found) - 1;
    }
    return n;
  }
  template <typename F>
  __device__ Index last(Index n, F f) const {
    Index last = 0;
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kLanes) last = f(j) ? j + 1 : last;
    __syncwarp(mask());
    return greatest(last);
  }
  template <typename V>
  __device__ V read(const V* p) const {
    const V value = *p;
    __syncwarp(mask());
    return value;
  }
  template <typename Keep, typename Emit>
  __device__ Index compact(Index n, Keep keep, Emit emit) const {
    Index count = 0;
    for (Index base = 0; base < n; base += kLanes) {
      const Index j = base + lane();
      const bool kept = j < n && keep(j);
      const unsigned votes = ballot(kept);
      if (kept) emit(j, count + __popc(votes & ((1u << lane()) - 1)));
      count += __popc(votes);
    }
    __syncwarp(mask());
    return count;
  }
  template <typename F>
  __device__ int64_t once(F f) const {
    int64_t value = 0;
    if (lane() == 0) value = f();
    return __shfl_sync(mask(), value, 0, kLanes);
  }

  __device__ static double total(double part) {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      part += __shfl_xor_sync(mask(), part, offset, kLanes);
    }
    return part;
  }
  template <typename V>
  __device__ static V greatest(V part) {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      const V other = __shfl_xor_sync(mask(), part, offset, kLanes);
      part = other > part ? other : part;
    }
    return part;
  }
};

// What the warps of a block tell each other.
struct BlockScratch {
  double part[2][kWarp];
  Index count[kWarp];
  int64_t once;
};
// What it takes of a block's shared memory.
constexpr int64_t kScratchBytes = (sizeof(BlockScratch) + 15) / 16 * 16;

__device__ inline BlockScratch& block_scratch() {
#ifdef __CUDACC__
  __shared__ BlockScratch scratch;
  return scratch;
#else
  static thread_local BlockScratch scratch[kMostBlocks];
  return scratch[cluster_rank()];
#endif
}

// A whole block that works on one row.
struct BlockLanes {
  using Warp = WarpLanes<kWarp>;
  static constexpr int kWarps = kThreads / kWarp;

  __device__ static int lane() { return threadIdx.x; }
  __device__ static int warp() { return threadIdx.x / kWarp; }

  template <typename F>
  __device__ void each(Index n, F f) const {
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kThreads) f(j);
    __syncthreads();
  }
  template <typename F>
  __device__ void each_padded(Index n, F f) const {
    each(n, f);
  }
  template <typename F>
  __device__ double sum(Index n, F f) const {
    return sums(n, f, [](Index) { return 0.0; }).first;
  }
  template <typename F, typename G>
  __device__ Sums sums(Index n, F f, G g) const {
    Sums part{0, 0};
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kThreads) {
      part.first += f(j);
      part.second += g(j);
    }
    BlockScratch& scratch = block_scratch();
    const double first = Warp::total(part.first), second = Warp::total(part.second);
    if (Warp::lane() == 0) scratch.part[0][warp()] = first, scratch.part[1][warp()] = second;
    __syncthreads();
    Sums all{scratch.part[0][0], scratch.part[1][0]};
    for (int w = 1; w < kWarps; ++w) {
      all.first += scratch.part[0][w];
      all.second += scratch.part[1][w];
    }
    __syncthreads();
    return all;
  }
  template <typename F>
  __device__ auto max(Index n, F f) const {
    auto highest = f(0);
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kThreads) highest = f(j) > highest ? f(j) : highest;
    highest = Warp::greatest(highest);
    BlockScratch& scratch = block_scratch();
    if (Warp::lane() == 0) scratch.part[0][warp()] = highest;
    __syncthreads();
    double greatest = scratch.part[0][0];
    for (int w = 1; w < kWarps; ++w) {
      greatest = scratch.part[0][w] > greatest ? scratch.part[0][w] : greatest;
    }
    __syncthreads();
    return static_cast<decltype(highest)>(greatest);
  }
  template <typename F>
  __device__ Index first(Index n, F f) const {
    BlockScratch& scratch = block_scratch();
    for (Index base = 0; base < n; base += kThreads) {
      const unsigned found = Warp::ballot(base + lane() < n && f(base + lane()));
      if (Warp::lane() == 0) scratch.count[warp()] = static_cast<Index>(found);
      __syncthreads();
      Index least = n;
      for (int w = kWarps - 1; w >= 0; --w) {
        const unsigned votes = static_cast<unsigned>(scratch.count[w]);
        if (votes != 0) least = base + w * kWarp + __ffs(votes) - 1;
      }
      __syncthreads();
      if (least < n) return least;
    }
    return n;
  }
  template <typename F>
  __device__ Index last(Index n, F f) const {
    Index last = 0;
    AEPPT_UNROLL(1)
    for (Index j = lane(); j < n; j += kThreads) last = f(j) ? j + 1 : last;
    last = Warp::greatest(last);
    BlockScratch& scratch = block_scratch();
    if (Warp::lane() == 0) scratch.count[warp()] = last;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) last = scratch.count[w] > last ? scratch.count[w] : last;
    __syncthreads();
    return last;
  }
  template <typename V>
  __device__ V read(const V* p) const {
    const V value = *p;
    __syncthreads();
    return value;
  }
  template <typename Keep, typename Emit>
  __device__ Index compact(Index n, Keep keep, Emit emit) const {
    BlockScratch& scratch = block_scratch();
    Index count = 0;
    for (Index base = 0; base < n; base += kThreads) {
      const Index j = base + lane();
      const bool kept = j < n && keep(j);
      const unsigned votes = Warp::ballot(kept);
      if (Warp::lane() == 0) scratch.count[warp()] = __popc(votes);
      __syncthreads();
      Index place = count + __popc(votes & ((1u << Warp::lane()) - 1));
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp()) place += scratch.count[w];
        count += scratch.count[w];
      }
      if (kept) emit(j, place);
      __syncthreads();
    }
    return count;
  }
  template <typename F>
  __device__ int64_t once(F f) const {
    BlockScratch& scratch = block_scratch();
    if (lane() == 0) scratch.once = f();
    __syncthreads();
    const int64_t value = scratch.once;
    __syncthreads();
    return value;
  }
};

// All threads of a block call these together, and all blocks of a cluster.
template <int kLanes>
struct Block {
  static constexpr int kTeams = kThreads / kLanes, kWarps = kThreads / kWarp;
  using Lanes = std::conditional_t<kLanes <= kWarp, WarpLanes<(kLanes <= kWarp ? kLanes : kWarp)>,
                                   BlockLanes>;

  __device__ static Index team() { return threadIdx.x / kLanes; }
  // A value that all lanes of a warp have, in a register that they share.
  __device__ static Index uniform(Index value) { return __shfl_sync(~0u, value, 0, kWarp); }

  // f(i) for all i < n.
  template <typename F>
  __device__ void each(Index n, F f) const {
    for (Index i = threadIdx.x; i < n; i += kThreads) f(i);
    __syncthreads();
  }
  // f(lanes, i) for all i < n.
  template <typename F>
  __device__ void teams(Index n, F f) const {
    for (Index i = threadIdx.x / kLanes; i < n; i += kTeams) f(Lanes(), i);
    __syncthreads();
  }
  // The same; whether f(lanes, i) held for any.
  template <typename F>
  __device__ bool any(Index n, F f) const {
    bool held = false;
    for (Index i = threadIdx.x / kLanes; i < n; i += kTeams) held |= f(Lanes(), i);
    return __syncthreads_or(held);
  }
  // f(i, lane) for all i < n and all lanes of a warp, in one block of the cluster.
  template <typename F>
  __device__ void warps(Index n, F f) const {
    const Index blocks = cluster_size();
    const Index first = uniform(cluster_rank() * kWarps + threadIdx.x / kWarp);
    for (Index i = first; i < n; i += blocks * kWarps) {
      f(i, threadIdx.x % kWarp);
    }
    if (blocks > 1) cluster_sync();
    else __syncthreads();
  }
  // Before products: until then a block's memory is its own.
  __device__ void meet() const {
    if (cluster_size() > 1) cluster_sync();
  }
  // Lists the i < n for which f(i), in order; how many.
  template <typename F>
  __device__ Index select(Index n, F f, int32_t* list) const {
    BlockScratch& scratch = block_scratch();
    if (threadIdx.x < kWarp) {
      const Index count = WarpLanes<kWarp>().compact(
          n, f, [=](Index i, Index place) { list[place] = static_cast<int32_t>(i); });
      if (threadIdx.x == 0) scratch.count[0] = count;
    }
    __syncthreads();
    const Index count = uniform(scratch.count[0]);
    __syncthreads();
    return count;
  }
  // Stores one output of a product, in every block of the cluster.
  template <typename T>
  __device__ void store(T* target, T value) const {
    const int blocks = cluster_size();
    if (blocks == 1) {
      *target = value;
      return;
    }
    AEPPT_UNROLL(1)
    for (int rank = 0; rank < blocks; ++rank) *in_block(target, rank) = value;
  }
};

}  // namespace aeppt::AEPPT_VARIANT
