// What a perturbation search is asked and what it answers, for every engine.
//
// Torch-free: raw pointers and plain structs, so that kernels compile fast and can be tested alone.
// docs/design.md gives the exact meaning of each option; aeppt_ext/options.py holds their defaults.
#pragma once

#include <cstdint>

namespace aeppt {

enum class Features : int32_t { kSorted, kRaw, kTop3, kSortedRaw };
enum class Direction : int32_t { kMember, kBoth };
enum class Space : int32_t { kProb, kLogit };
enum class Norm : int32_t { kLinf, kL2 };

// How long a step is: as long as it is told, or as far as the border seems to be.
enum class Method : int32_t { kStep, kBoundary };

// The lowest precision in which the products of a gradient step may be made.
enum class Precision : int32_t { kFloat32, kTf32, kBf16 };

enum class Status : int8_t {
  kUnchanged = 0,
  kSuccess = 1,
  kBudget = 2,
  kExhausted = 3,
  kInvalid = 4
};

// The same constants as in aeppt_ext/options.py.
constexpr double kSumTolerance = 1e-3;
constexpr double kExactSum = 1e-6;
constexpr double kLogFloor = 1e-12;
constexpr int32_t kBudgetSteps = 30;
constexpr double kOvershoot = 1.02;
constexpr double kLongestStep = 4;
constexpr int32_t kFinestCut = 30;
constexpr int32_t kSpareCuts = 2;
constexpr double kCutShift = 0.2;

struct Options {
  Features features;
  Direction direction;
  Space space;
  Norm norm;
  Method method;
  double step_size;
  int32_t max_steps;
  double margin;
  double tie_gap;
  int32_t refine_steps;
  double max_l1;  // infinity where there is no budget
  bool constant_time;
  Precision precision;
};

// How many inputs a substitute has. With kSortedRaw the sorted entries come first.
constexpr int64_t feature_width(Features features, int64_t classes) {
  return features == Features::kSortedRaw ? 2 * classes
         : features == Features::kTop3    ? (classes < 3 ? classes : 3)
                                          : classes;
}

// Outputs of a matrix product are grouped in panels of this many, so that the weights of one panel
// are contiguous: panels[width / kPanel][depth][kPanel], padded with zeros.
constexpr int64_t kPanel = 32;

constexpr int64_t padded(int64_t width) { return (width + kPanel - 1) / kPanel * kPanel; }

// Two neighbouring inputs or weights in bf16, the first in the lower half. Panels of pairs have a
// depth of padded(inputs) / 2.
using Pair = uint32_t;

// One dense layer of the substitute, packed for both directions. The last layer has one output and
// is kept as a plain vector in `forward`.
template <typename T>
struct Layer {
  int64_t in, out;
  const T* forward;   // panels over the outputs, depth = in
  const T* backward;  // panels over the inputs, depth = out
  const T* bias;      // [padded(out)]
  // The same in pairs, for a CPU that is to make gradient steps in bf16; else null.
  const Pair *forward_pairs, *backward_pairs;
};

// The room that the activations of all hidden layers take.
template <typename T>
constexpr int64_t hidden_width(const Layer<T>* layers, int32_t count) {
  int64_t width = 0;
  for (int32_t l = 0; l + 1 < count; ++l) width += padded(layers[l].out);
  return width;
}

template <typename T>
struct Search {
  int64_t rows, classes;
  const T* probs;  // [rows, classes]
  int64_t row_stride, column_stride;
  const Layer<T>* layers;
  int32_t layer_count;
  Options options;
  T* out;           // [rows, classes]
  int8_t* status;   // [rows]
  int32_t* steps;   // [rows]
  T* score_before;  // [rows]
  T* score_after;   // [rows]
  T* l1;            // [rows]
};

}  // namespace aeppt
