// CUDA's threads on one thread of a CPU, so that a kernel's own source runs in tests without a GPU.
//
// Each thread of a block, or of a cluster of blocks, is a context of its own that runs until it
// waits for others: at a barrier, or to exchange a value. The last thread goes first. Where the
// source forgets a barrier, a thread reads what another has not written yet, and the tests see it.
#pragma once

#include <ucontext.h>

#include <bit>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#define __device__
namespace aeppt::emulated {

constexpr int kWarpThreads = 32;

struct ThreadIndex {  // a named type, so that all sources that include this share one variable
  unsigned x;
};
inline thread_local ThreadIndex threadIdx;

constexpr int kMostBlocks = 2;  // of a cluster

// The threads of one cluster of blocks, whose memories lie `memory_bytes` apart.
class Threads {
 public:
  Threads(int blocks, int threads_of_block, int64_t memory_bytes)
      : threads_of_block_(threads_of_block),
        memory_bytes_(memory_bytes),
        threads_(blocks * threads_of_block),
        warps_(threads_.size() / kWarpThreads),
        stacks_(new char[threads_.size() * kStackBytes]) {}

  // Runs body() in every thread, to its end.
  template <typename Body>
  void run(Body body) {
    current = this;
    enter_ = [](void* b) { (*static_cast<Body*>(b))(); };
    body_ = &body;
    running_ = static_cast<int>(threads_.size());
    for (size_t i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = stacks_.get() + i * kStackBytes;
      thread.context.uc_stack.ss_size = kStackBytes;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, &Threads::start, 0);
      thread.started = thread.done = false;
    }
    // Returns here from the thread that ends last.
    if (_setjmp(return_) == 0) resume(static_cast<int>(threads_.size()) - 1);
    current = nullptr;
  }

  // Waits until as many threads have come to the barrier.
  void wait_for_cluster() { wait(cluster_, static_cast<int>(threads_.size())); }
  // Whether any thread of the block voted so.
  bool wait_for_block(bool vote = false) {
    Barrier& barrier = blocks_[block()];
    barrier.vote |= vote;
    wait(barrier, threads_of_block_);
    return barrier.outcome;
  }
  void wait_for_lanes(unsigned mask) {
    Warp& warp = this->warp();
    wait(warp.barriers[mask == ~0u ? kWarpThreads : std::countr_zero(mask)], std::popcount(mask));
  }

  // What each lane of the warp has to tell the others, 16 bytes at most.
  template <typename V>
  void post(const V& value) {
    static_assert(sizeof value <= kValueBytes);
    std::memcpy(warp().values[threadIdx.x % kWarpThreads], &value, sizeof value);
  }
  template <typename V>
  V posted(int lane) {
    V value;
    std::memcpy(&value, warp().values[lane], sizeof value);
    return value;
  }

  int blocks() const { return static_cast<int>(threads_.size()) / threads_of_block_; }
  int block() const { return running_thread_ / threads_of_block_; }
  int64_t memory_bytes() const { return memory_bytes_; }

  static thread_local Threads* current;

 private:
  static constexpr size_t kStackBytes = 64 << 10, kValueBytes = 16;

  struct Thread {
    ucontext_t context;
    jmp_buf state;
    bool started, done;
  };
  struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
    bool vote = false, outcome = false;
  };
  struct Warp {
    Barrier barriers[kWarpThreads + 1];  // by first lane; the last is that of the whole warp
    char values[kWarpThreads][kValueBytes];
  };

  static void start() {
    Threads& self = *current;
    self.enter_(self.body_);
    self.threads_[self.running_thread_].done = true;
    self.idle_ = 0;
    if (--self.running_ == 0) _longjmp(self.return_, 1);
    self.resume(self.next());
  }

  // The next thread that has not ended, downwards.
  int next() const {
    int i = running_thread_;
    do i = i == 0 ? static_cast<int>(threads_.size()) - 1 : i - 1;
    while (threads_[i].done);
    return i;
  }

  Warp& warp() { return warps_[running_thread_ / kWarpThreads]; }

  [[noreturn]] void resume(int i) {
    Thread& thread = threads_[i];
    running_thread_ = i;
    threadIdx.x = static_cast<unsigned>(i % threads_of_block_);
    if (thread.started) _longjmp(thread.state, 1);
    thread.started = true;
    setcontext(&thread.context);
    std::abort();
  }

  [[gnu::noinline]] void give_way() {
    if (_setjmp(threads_[running_thread_].state) == 0) resume(next());
  }

  void wait(Barrier& barrier, int count) {
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
      barrier.outcome = std::exchange(barrier.vote, false);
      ++barrier.generation;
      idle_ = 0;
      return;
    }
    for (const unsigned generation = barrier.generation; barrier.generation == generation;) {
      if (++idle_ > 2 * threads_.size()) {
        std::fputs("aeppt: a barrier of the emulated kernel waits for threads that never come\n",
                   stderr);
        std::abort();
      }
      give_way();
    }
  }

  const int threads_of_block_;
  const int64_t memory_bytes_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  const std::unique_ptr<char[]> stacks_;
  Barrier cluster_, blocks_[kMostBlocks];
  jmp_buf return_;
  void (*enter_)(void*) = nullptr;
  void* body_ = nullptr;
  int running_ = 0, running_thread_ = 0;
  size_t idle_ = 0;  // switches since something moved
};

inline thread_local Threads* Threads::current = nullptr;

inline void __syncthreads() { Threads::current->wait_for_block(); }
inline int __syncthreads_or(bool vote) { return Threads::current->wait_for_block(vote); }
inline int cluster_size() { return Threads::current->blocks(); }
inline int cluster_rank() { return Threads::current->block(); }
inline void cluster_sync() { Threads::current->wait_for_cluster(); }
template <typename T>
T* in_block(T* own, int rank) {
  const int64_t bytes = (rank - cluster_rank()) * Threads::current->memory_bytes();
  return reinterpret_cast<T*>(reinterpret_cast<char*>(own) + bytes);
}
inline void __syncwarp(unsigned mask) { Threads::current->wait_for_lanes(mask); }

template <typename V>
V __shfl_sync(unsigned mask, V value, int lane, int width) {
  Threads& threads = *Threads::current;
  threads.post(value);
  threads.wait_for_lanes(mask);
  const int self = static_cast<int>(threadIdx.x) % kWarpThreads;
  const V got = threads.posted<V>(self / width * width + lane);
  threads.wait_for_lanes(mask);
  return got;
}
template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int offset, int width) {
  const int self = static_cast<int>(threadIdx.x) % width;
  return __shfl_sync(mask, value, self ^ offset, width);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  Threads& threads = *Threads::current;
  threads.post(vote);
  threads.wait_for_lanes(mask);
  unsigned votes = 0;
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    if (mask >> lane & 1) votes |= static_cast<unsigned>(threads.posted<bool>(lane)) << lane;
  }
  threads.wait_for_lanes(mask);
  return votes;
}

inline int __ffs(unsigned bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
template <typename V>
V __ldg(const V* p) {
  return *p;
}

}  // namespace aeppt::emulated
