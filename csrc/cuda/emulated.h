// CUDA's threads on one thread of a CPU, so that a kernel's own source runs in tests without a GPU.
//
// Each thread of a block is a context of its own that runs until it waits for others: at a
// barrier, or to exchange a value. The last thread goes first. Where the source forgets a barrier,
// a thread reads what another has not written yet, and the tests see it.
#pragma once

#include <ucontext.h>

#include <atomic>
#include <bit>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define __device__
#define __shared__ static thread_local

namespace aeppt::emulated {

constexpr int kWarpThreads = 32;

inline thread_local struct {
  unsigned x;
} threadIdx;

// The threads of one block.
class Threads {
 public:
  explicit Threads(int count)
      : threads_(count), warps_(count / kWarpThreads), stacks_(new char[count * kStackBytes]) {}

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
  void wait_for_block() { wait(block_, static_cast<int>(threads_.size())); }
  void wait_for_lanes(unsigned mask) {
    Warp& warp = warps_[threadIdx.x / kWarpThreads];
    wait(warp.barriers[mask == ~0u ? kWarpThreads : std::countr_zero(mask)], std::popcount(mask));
  }

  // What each lane of the warp has to tell the others, 16 bytes at most.
  template <typename V>
  void post(const V& value) {
    static_assert(sizeof value <= kValueBytes);
    Warp& warp = warps_[threadIdx.x / kWarpThreads];
    std::memcpy(warp.values[threadIdx.x % kWarpThreads], &value, sizeof value);
  }
  template <typename V>
  V posted(int lane) const {
    V value;
    std::memcpy(&value, warps_[threadIdx.x / kWarpThreads].values[lane], sizeof value);
    return value;
  }

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
  };
  struct Warp {
    Barrier barriers[kWarpThreads + 1];  // by first lane; the last is that of the whole warp
    char values[kWarpThreads][kValueBytes];
  };

  static void start() {
    Threads& self = *current;
    self.enter_(self.body_);
    self.threads_[threadIdx.x].done = true;
    self.idle_ = 0;
    if (--self.running_ == 0) _longjmp(self.return_, 1);
    self.resume(self.next());
  }

  // The next thread that has not ended, downwards.
  int next() const {
    int i = static_cast<int>(threadIdx.x);
    do i = i == 0 ? static_cast<int>(threads_.size()) - 1 : i - 1;
    while (threads_[i].done);
    return i;
  }

  [[noreturn]] void resume(int i) {
    Thread& thread = threads_[i];
    threadIdx.x = static_cast<unsigned>(i);
    if (thread.started) _longjmp(thread.state, 1);
    thread.started = true;
    setcontext(&thread.context);
    std::abort();
  }

  [[gnu::noinline]] void give_way() {
    if (_setjmp(threads_[threadIdx.x].state) == 0) resume(next());
  }

  void wait(Barrier& barrier, int count) {
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
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

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  const std::unique_ptr<char[]> stacks_;
  Barrier block_;
  jmp_buf return_;
  void (*enter_)(void*) = nullptr;
  void* body_ = nullptr;
  int running_ = 0;
  size_t idle_ = 0;  // switches since something moved
};

inline thread_local Threads* Threads::current = nullptr;

inline void __syncthreads() { Threads::current->wait_for_block(); }
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
inline unsigned long long atomicAdd(std::atomic<int64_t>* counter, unsigned long long more) {
  return static_cast<unsigned long long>(counter->fetch_add(static_cast<int64_t>(more)));
}

}  // namespace aeppt::emulated
