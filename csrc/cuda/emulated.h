// CUDA's threads on one thread of a CPU, so that a kernel's own source runs in tests without a GPU.
//
// Each thread of a block, or of a cluster of blocks, is a context of its own that runs until it
// waits for others: at a barrier, or to exchange a value. The last thread goes first. Where the
// source forgets a barrier, a thread reads what another has not written yet, and the tests see it.
//
// ThreadSanitizer sees more (watched_threads.h), also where by chance the answer is right. To it,
// as to CUDA, a shuffle or a ballot is no barrier.
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

#include "watched_threads.h"

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
    caller_ = this_fiber();
    for (size_t i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = stacks_.get() + i * kStackBytes;
      thread.context.uc_stack.ss_size = kStackBytes;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, &Threads::start, 0);
      thread.started = thread.done = false;
      const Unwatched unwatched;
      thread.fiber = make_fiber();
    }
    // Returns here from the thread that ends last.
    if (_setjmp(return_) == 0) resume(static_cast<int>(threads_.size()) - 1);
    acquire(&running_);
    for (Thread& thread : threads_) end_fiber(thread.fiber);
    current = nullptr;
  }

  // Waits until as many threads have come to the barrier.
  void wait_for_cluster() { wait(cluster_, static_cast<int>(threads_.size())); }
  // Whether any thread of the block voted so.
  bool wait_for_block(bool vote = false) {
    Barrier& barrier = blocks_[block()];
    {
      const Unwatched unwatched;
      barrier.vote |= vote;
    }
    wait(barrier, threads_of_block_);
    return barrier.outcome;
  }
  // `orders`: what lanes wrote before, all of them see afterwards.
  void wait_for_lanes(unsigned mask, bool orders) {
    Warp& warp = this->warp();
    wait(warp.barriers[mask == ~0u ? kWarpThreads : std::countr_zero(mask)], std::popcount(mask),
         orders);
  }

  // What each lane of the warp has to tell the others, 16 bytes at most.
  template <typename V>
  void post(const V& value) {
    static_assert(sizeof value <= kValueBytes);
    const Unwatched unwatched;
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
    Fiber fiber;
    bool started, done;
  };
  struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
    bool vote = false, outcome = false;
    char orders[2];  // of even and odd generations
  };
  struct Warp {
    Barrier barriers[kWarpThreads + 1];  // by first lane; the last is that of the whole warp
    char values[kWarpThreads][kValueBytes];
  };

  static void start() {
    Threads& self = *current;
    self.enter_(self.body_);
    const Fiber caller = self.caller_;
    release(&self.running_);
    if (self.end_thread()) self.resume(self.next());
    switch_to(caller);
    _longjmp(self.return_, 1);
  }

  // Whether there are others left.
  bool end_thread() {
    const Unwatched unwatched;
    threads_[running_thread_].done = true;
    idle_ = 0;
    return --running_ > 0;
  }

  // The next thread that has not ended, downwards.
  int next() const {
    const Unwatched unwatched;
    int i = running_thread_;
    do i = i == 0 ? static_cast<int>(threads_.size()) - 1 : i - 1;
    while (threads_[i].done);
    return i;
  }

  Warp& warp() { return warps_[running_thread_ / kWarpThreads]; }

  // The thread whose turn it is now.
  Thread& turn(int i) {
    const Unwatched unwatched;
    running_thread_ = i;
    threadIdx.x = static_cast<unsigned>(i % threads_of_block_);
    return threads_[i];
  }

#ifdef AEPPT_WATCHED  // it follows no jump from one stack to another
  [[noreturn]] void resume(int i) {
    Thread& thread = turn(i);
    switch_to(thread.fiber);
    setcontext(&thread.context);
    std::abort();
  }
  [[gnu::noinline]] void give_way() {
    ucontext_t* const own = &threads_[running_thread_].context;
    Thread& thread = turn(next());
    switch_to(thread.fiber);
    swapcontext(own, &thread.context);
  }
#else
  [[noreturn]] void resume(int i) {
    Thread& thread = turn(i);
    if (std::exchange(thread.started, true)) _longjmp(thread.state, 1);
    setcontext(&thread.context);
    std::abort();
  }
  [[gnu::noinline]] void give_way() {
    if (_setjmp(threads_[running_thread_].state) == 0) resume(next());
  }
#endif

  void wait(Barrier& barrier, int count, bool orders = true) {
    char* const order = &barrier.orders[barrier.generation % 2];
    if (orders) release(order);
    wait_for_all(barrier, count);
    if (orders) acquire(order);
  }

  void wait_for_all(Barrier& barrier, int count) {
    const Unwatched unwatched;
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
  Fiber caller_;
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
inline void __syncwarp(unsigned mask) { Threads::current->wait_for_lanes(mask, true); }

template <typename V>
V __shfl_sync(unsigned mask, V value, int lane, int width) {
  Threads& threads = *Threads::current;
  threads.post(value);
  threads.wait_for_lanes(mask, false);
  const int self = static_cast<int>(threadIdx.x) % kWarpThreads;
  const V got = threads.posted<V>(self / width * width + lane);
  threads.wait_for_lanes(mask, false);
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
  threads.wait_for_lanes(mask, false);
  unsigned votes = 0;
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    if (mask >> lane & 1) votes |= static_cast<unsigned>(threads.posted<bool>(lane)) << lane;
  }
  threads.wait_for_lanes(mask, false);
  return votes;
}

inline int __ffs(unsigned bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
template <typename V>
V __ldg(const V* p) {
  return *p;
}

}  // namespace aeppt::emulated
