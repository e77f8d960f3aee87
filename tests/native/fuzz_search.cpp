// Any bytes make a search: its rows, a substitute and options. Whatever they are, the answers must
// keep the guarantees of docs/design.md, with every instruction set that this processor has, and a
// row's answer must be the same alone as beside others on several threads.
//
// The entry is libFuzzer's. Without libFuzzer, run_search.cpp feeds it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/packed_substitute.h"
#include "../../csrc/cpu/variants.h"
#include "aeppt/search.h"

namespace aeppt {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What an input says, a byte at a time; zeros after its end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  uint32_t byte() { return left_ > 0 ? --left_, *data_++ : 0; }
  uint32_t below(uint32_t limit) { return (byte() | byte() << 8) % limit; }
  template <typename V>
  V one_of(std::initializer_list<V> values) {
    return values.begin()[byte() % values.size()];
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

Options read_options(Bytes& bytes) {
  Options options{};
  options.features =
      bytes.one_of({Features::kSorted, Features::kRaw, Features::kTop3, Features::kSortedRaw});
  options.direction = bytes.one_of({Direction::kBoth, Direction::kMember});
  options.space = bytes.one_of({Space::kLogit, Space::kProb});
  options.norm = bytes.one_of({Norm::kLinf, Norm::kL2});
  options.method = bytes.one_of({Method::kBoundary, Method::kStep});
  options.step_size = bytes.one_of({0.3, 0.02, 0.0, 5.0, 1e6});
  options.max_steps = bytes.byte() % 6;
  options.margin = bytes.one_of({0.0, 0.1, 1e3, 1e30});
  options.tie_gap = bytes.one_of({1e-6, 1e-3, 0.1});
  options.refine_steps = bytes.byte() % 13;
  options.max_l1 = bytes.one_of({kInfinity, 0.3, 0.01, 0.0});
  options.constant_time = bytes.byte() % 2 != 0;
  options.precision = bytes.one_of({Precision::kFloat32, Precision::kBf16});
  return options;
}

template <typename T>
struct Problem {
  int64_t rows, classes;
  std::vector<T> probs;
  std::vector<std::vector<T>> numbers;  // weights and biases
  std::vector<DenseLayer<T>> layers;
  Options options;
};

template <typename T>
void fill_row(Bytes& bytes, std::mt19937& random, T* row, int64_t k) {
  std::uniform_real_distribution<double> uniform(0, 1);
  const uint32_t kind = bytes.byte() % 7;
  double total = 0;
  for (int64_t j = 0; j < k; ++j) {
    const double u = uniform(random);
    row[j] = kind == 0   ? -std::log(u)
             : kind == 1 ? std::pow(u, 40.0)
             : kind == 2 ? 1 + std::floor(3 * u)
             : kind == 3 ? u < 0.5
             : kind == 4 ? j == k / 2
             : kind == 5 ? std::numeric_limits<T>::denorm_min()
                         : 1.0;
    total += row[j];
  }
  if (kind == 5) row[k - 1] = total = 1;
  for (int64_t j = 0; j < k && total > 0; ++j) row[j] /= total;
  // Now and then one entry is something else.
  const int64_t place = bytes.below(k);
  const T value = row[place];
  row[place] =
      bytes.one_of<T>({value, value, value, value, value + T(5e-4), T(-1e-9), T(-0.0),
                       std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()});
}

template <typename T>
Problem<T> read_problem(Bytes& bytes) {
  Problem<T> problem;
  problem.options = read_options(bytes);
  problem.classes = 2 + bytes.below(bytes.one_of({15u, 199u, 299u}));
  problem.rows = 1 + bytes.byte() % 5;
  std::mt19937 random(bytes.below(1 << 16));
  problem.probs.resize(problem.rows * problem.classes);
  for (int64_t i = 0; i < problem.rows; ++i) {
    fill_row(bytes, random, &problem.probs[i * problem.classes], problem.classes);
  }
  std::vector<int64_t> widths(bytes.byte() % 4, 0);
  for (int64_t& width : widths) width = 1 + bytes.below(80);
  widths.push_back(1);
  const double scale = bytes.one_of({1.0, 1.0, 30.0, 0.0, 1e30, kInfinity});
  std::normal_distribution<double> normal;
  int64_t in = feature_width(problem.options.features, problem.classes);
  for (const int64_t out : widths) {
    std::vector<T>& weight = problem.numbers.emplace_back(in * out);
    for (T& w : weight) w = scale * normal(random) / std::sqrt(in);
    std::vector<T>& bias = problem.numbers.emplace_back(out);
    for (T& b : bias) b = 0.1 * normal(random);
    in = out;
  }
  in = 0;
  for (size_t l = 0; l < widths.size(); ++l) {
    const std::vector<T>& weight = problem.numbers[2 * l];
    const int64_t out = widths[l];
    problem.layers.push_back({static_cast<int64_t>(weight.size()) / out, out, weight.data(),
                              problem.numbers[2 * l + 1].data()});
  }
  return problem;
}

template <typename T>
struct Answers {
  explicit Answers(int64_t rows, int64_t classes)
      : probs(rows * classes), status(rows), steps(rows), before(rows), after(rows), l1(rows) {}
  std::vector<T> probs;
  std::vector<int8_t> status;
  std::vector<int32_t> steps;
  std::vector<T> before, after, l1;
};

template <typename T>
Answers<T> search(const Problem<T>& problem, int64_t first, int64_t rows, int64_t threads,
                  const Variant& variant) {
  const bool pairs = std::is_same_v<T, float> && variant.makes_bf16 &&
                     problem.options.precision == Precision::kBf16;
  const PackedSubstitute<T> substitute(problem.layers, pairs);
  const int64_t k = problem.classes;
  Answers<T> answers(rows, k);
  const Search<T> task{rows,
                       k,
                       &problem.probs[first * k],
                       k,
                       1,
                       substitute.layers().data(),
                       static_cast<int32_t>(substitute.layers().size()),
                       problem.options,
                       answers.probs.data(),
                       answers.status.data(),
                       answers.steps.data(),
                       answers.before.data(),
                       answers.after.data(),
                       answers.l1.data()};
  RowQueue queue(rows, nullptr);
  std::vector<std::thread> workers;
  for (int64_t i = 1; i < threads; ++i) {
    workers.emplace_back([&] { variant.search_rows<T>()(task, threads, queue); });
  }
  variant.search_rows<T>()(task, threads, queue);
  for (std::thread& worker : workers) worker.join();
  return answers;
}

[[noreturn]] void fail(const Variant& variant, int64_t row, const char* reason) {
  std::fprintf(stderr, "%s, row %lld: %s\n", variant.name, static_cast<long long>(row), reason);
  std::abort();
}

template <typename T>
bool is_distribution(const T* row, int64_t k) {
  double total = 0;
  for (int64_t j = 0; j < k; ++j) {
    if (!(row[j] >= 0 && row[j] < kInfinity)) return false;
    total += row[j];
  }
  return std::fabs(total - 1) <= kSumTolerance;
}

template <typename T>
void check_row(const Problem<T>& problem, const Answers<T>& answers, int64_t i,
               const Variant& variant) {
  const int64_t k = problem.classes;
  const T *const given = &problem.probs[i * k], *const found = &answers.probs[i * k];
  const auto require = [&](bool holds, const char* reason) {
    if (!holds) fail(variant, i, reason);
  };
  const auto status = static_cast<Status>(answers.status[i]);
  if (!is_distribution(given, k)) {
    require(status == Status::kInvalid, "a bad row is not refused");
    require(std::memcmp(given, found, k * sizeof(T)) == 0, "a bad row is changed");
    return;
  }
  require(status == Status::kUnchanged || status == Status::kSuccess || status == Status::kBudget ||
              status == Status::kExhausted,
          "no status of a good row");
  require(std::max_element(given, given + k) - given == std::max_element(found, found + k) - found,
          "the label has changed");
  double total = 0;
  for (int64_t j = 0; j < k; ++j) {
    require(found[j] >= 0 && found[j] <= 1 + 1e-6, "not a probability");
    total += found[j];
  }
  require(std::fabs(total - 1) <= 1e-6, "the sum is not one");
  require(answers.steps[i] >= 0 && answers.steps[i] <= problem.options.max_steps, "too many steps");
  const bool member = problem.options.direction == Direction::kMember;
  const T side = member || answers.before[i] > 0 ? T(1) : T(-1);
  require((status == Status::kSuccess) ==
              (side * answers.after[i] + static_cast<T>(problem.options.margin) <= 0 &&
               status != Status::kUnchanged),
          "the status does not follow from the score");
  require(answers.l1[i] <= problem.options.max_l1 + 1e-6, "the budget is exceeded");
}

// The CUDA kernel's source, which is slow here and tried alone.
bool is_emulated(const Variant& variant) { return !std::strcmp(variant.name, "emulated"); }

template <typename T>
void check(Bytes& bytes) {
  const Problem<T> problem = read_problem<T>(bytes);
  const int64_t k = problem.classes;
  for (const Variant* const variant : built_variants()) {
    if (!variant->supported() || (is_emulated(*variant) && built_variants().size() > 1)) continue;
    // What is emulated has threads enough of its own.
    const int64_t threads = is_emulated(*variant) ? 1 : 3;
    const Answers<T> together = search(problem, 0, problem.rows, threads, *variant);
    for (int64_t i = 0; i < problem.rows; ++i) {
      check_row(problem, together, i, *variant);
      const Answers<T> alone = search(problem, i, 1, 1, *variant);
      const auto same = [](const auto& one, int64_t at, const auto& other, int64_t count) {
        return std::memcmp(&one[at], &other[0], count * sizeof one[0]) == 0;
      };
      if (!same(together.probs, i * k, alone.probs, k) ||
          !same(together.status, i, alone.status, 1) || !same(together.steps, i, alone.steps, 1) ||
          !same(together.after, i, alone.after, 1) || !same(together.l1, i, alone.l1, 1)) {
        fail(*variant, i, "another answer alone");
      }
    }
  }
}

}  // namespace
}  // namespace aeppt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  aeppt::Bytes bytes(data, size);
  if (bytes.byte() % 4 == 0) aeppt::check<double>(bytes);
  else aeppt::check<float>(bytes);
  return 0;
}
