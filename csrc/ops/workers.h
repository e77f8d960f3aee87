// The threads of a call on the CPU: how many it may take, and how a signal ends it.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>

#include "../cpu/row_queue.h"

namespace aeppt {

// Set by the Python module; null elsewhere.
extern std::atomic<CheckSignals> check_signals;

// A call's share of torch's threads, held while this lives. Calls that run at the same time, as in
// a server, share those threads instead of each taking all; the call's own thread is always one.
class Workers {
 public:
  explicit Workers(int64_t most);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int64_t count() const { return count_; }

 private:
  int64_t count_;
};

// Runs `work` in every worker, until the queue is empty; an exception in one ends all.
template <typename Work>
void run_workers(const Workers& workers, RowQueue& queue, const Work& work) {
  at::parallel_for(0, workers.count(), 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t i = begin; i < end; ++i) work();
    } catch (...) {
      queue.stop();
      throw;
    }
  });
}

}  // namespace aeppt
