// The rows of one call, handed out to its workers one at a time, until none are left or a signal
// ends the call.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace aeppt {

// Throws where a signal wants the call to end.
using CheckSignals = void (*)();

class RowQueue {
 public:
  // To be made in the thread of the call; `check` may be null.
  RowQueue(int64_t rows, CheckSignals check) : rows_(rows), check_(check) {}

  // The next row; beyond the last where none is left.
  int64_t take() { return stopped() ? rows_ : next_.fetch_add(1, std::memory_order_relaxed); }

  void stop() { stopped_.store(true, std::memory_order_relaxed); }
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  // Every worker calls this between rounds; in the thread of the call it looks for signals, now and
  // then, as that takes Python's lock.
  void look_for_signals() {
    if (check_ == nullptr || std::this_thread::get_id() != caller_) return;
    const auto now = Clock::now();
    if (now - looked_ < kPause) return;
    looked_ = now;
    check_();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPause{50};

  const int64_t rows_;
  const CheckSignals check_;
  const std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point looked_ = Clock::now();
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stopped_{false};
};

}  // namespace aeppt
