// See workers.h.
#include "workers.h"

#include <algorithm>

namespace aeppt {
namespace {

std::atomic<int64_t> busy{0};

}  // namespace

std::atomic<CheckSignals> check_signals{nullptr};

Workers::Workers(int64_t most) {
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  int64_t others = busy.load();
  do {
    count_ = std::max<int64_t>(1, std::min(most, threads - others));
  } while (!busy.compare_exchange_weak(others, others + count_));
}

Workers::~Workers() { busy -= count_; }

}  // namespace aeppt
