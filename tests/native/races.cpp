// The source of the CUDA kernels, emulated, for ThreadSanitizer: races COUNT makes as many random
// searches (fuzz_search.cpp) and releases. In place of csrc/cpu/variants.cpp, as the emulated
// kernel is the only one here.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "../../csrc/cpu/release_variants.h"
#include "../../csrc/cpu/variants.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace aeppt {

const std::vector<const Variant*>& built_variants() {
  static const std::vector<const Variant*> variants = {&kEmulatedVariant};
  return variants;
}

namespace {

template <typename T>
struct Released {
  std::vector<T> probs;
  std::vector<int8_t> status;
  std::vector<int32_t> codeword;
  bool operator==(const Released&) const = default;
};

template <typename T>
Released<T> release(Release<T> task, const ReleaseVariant& variant) {
  Released<T> released{std::vector<T>(task.rows * task.classes), std::vector<int8_t>(task.rows),
                       std::vector<int32_t>(task.rows)};
  task.out = released.probs.data();
  task.status = released.status.data();
  task.codeword = released.codeword.data();
  RowQueue blocks((task.rows + rows_of_block(task.classes) - 1) / rows_of_block(task.classes),
                  nullptr);
  variant.release_blocks<T>()(task, blocks);
  return released;
}

// Whether the emulated kernel answers as the CPU's does.
template <typename T>
bool agree(int64_t classes, std::mt19937& random) {
  constexpr int64_t kRows = 70;  // more than a block has teams
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<T> rows(kRows * classes), codebook(4 * classes);
  const auto draw = [&](T* row) {
    double total = 0;
    for (int64_t j = 0; j < classes; ++j) total += row[j] = std::exp(5 * uniform(random));
    for (int64_t j = 0; j < classes; ++j) row[j] /= total;
  };
  for (int64_t i = 0; i < kRows; ++i) draw(&rows[i * classes]);
  for (int64_t i = 0; i < 4; ++i) {
    draw(&codebook[i * classes]);
    std::sort(&codebook[i * classes], &codebook[(i + 1) * classes], std::greater<T>());
  }
  rows[3 * classes] = -1;
  std::vector<int32_t> maps(classes);
  for (int32_t& map : maps) map = random() % 2;
  const double confidence_edges[] = {0.3}, shape_edges[] = {0.2, 0.4};
  double cumulative[2 * 4 * 4];
  for (int i = 0; i < 2 * 4 * 4; ++i) cumulative[i] = (i % 4 + 1) / 4.0;
  Release<T> task{};
  task.rows = kRows, task.classes = classes;
  task.probs = rows.data(), task.row_stride = classes, task.column_stride = 1;
  task.confidences = task.shapes = task.maps = 2;
  task.confidence_edges = confidence_edges, task.shape_edges = shape_edges;
  task.map_of_class = maps.data(), task.cumulative = cumulative, task.codebook = codebook.data();
  task.key = {random(), random()};
  task.buckets = AEPPT_VARIANT::buckets_of(task.key, classes);
  return release(task, kEmulatedRelease) == release(task, kBaselineRelease);
}

}  // namespace
}  // namespace aeppt

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 10;
  std::mt19937 random(0);
  std::vector<uint8_t> bytes(64);
  for (int i = 0; i < count; ++i) {
    for (uint8_t& byte : bytes) byte = random();
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    const int64_t classes[] = {2, 13, 40, 200, 300};  // teams of 8, 32 and 256; compared and sorted
    const bool same = i % 2 == 0 ? aeppt::agree<float>(classes[i % 5], random)
                                 : aeppt::agree<double>(classes[i % 5], random);
    if (!same) {
      std::fprintf(stderr, "release %d differs from the CPU's\n", i);
      return 1;
    }
  }
  std::printf("%d searches and releases without a race\n", count);
}
