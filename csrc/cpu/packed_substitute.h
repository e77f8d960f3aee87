// The substitute's layers as the CPU kernels read them: in panels, for both directions (see Layer).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "aeppt/search.h"
#include "arena.h"

namespace aeppt {

// One dense layer as it is given, contiguous; the last has one output.
template <typename T>
struct DenseLayer {
  int64_t in, out;
  const T* weight;  // [out, in]
  const T* bias;    // [out]
};

// The number nearest to a float in bf16, ties to even; its bits.
inline uint32_t to_bf16(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;  // not a number stays that
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// The packed layers, in memory that lives as long as this.
template <typename T>
class PackedSubstitute {
 public:
  // `pairs`: also in bf16, for a kernel that makes gradient steps in it.
  PackedSubstitute(const std::vector<DenseLayer<T>>& given, bool pairs) {
    lay_out(given, pairs);
    arena_.allocate();
    lay_out(given, pairs);
    for (size_t l = 0; l < given.size(); ++l) fill(given[l], layers_[l]);
  }
  const std::vector<Layer<T>>& layers() const { return layers_; }

 private:
  void lay_out(const std::vector<DenseLayer<T>>& given, bool pairs) {
    layers_.clear();
    for (const DenseLayer<T>& layer : given) {
      const int64_t in = layer.in, out = layer.out;
      Layer<T> packed{in, out, nullptr, nullptr, arena_.take<T>(padded(out)), nullptr, nullptr};
      if (&layer == &given.back()) {
        packed.forward = arena_.take<T>(in);
      } else {
        packed.forward = arena_.take<T>(padded(out) * in);
        packed.backward = arena_.take<T>(padded(in) * out);
        if (pairs) {
          packed.forward_pairs = arena_.take<Pair>(padded(out) * padded(in) / 2);
          packed.backward_pairs = arena_.take<Pair>(padded(in) * padded(out) / 2);
        }
      }
      layers_.push_back(packed);
    }
  }

  // The arena's memory is ours to write.
  static T* mine(const T* piece) { return const_cast<T*>(piece); }

  static void fill(const DenseLayer<T>& given, const Layer<T>& layer) {
    const int64_t in = given.in, out = given.out;
    std::copy_n(given.bias, out, mine(layer.bias));
    if (layer.backward == nullptr) {
      std::copy_n(given.weight, in, mine(layer.forward));
      return;
    }
    for (int64_t o = 0; o < out; o += kPanel) {
      transpose(given.weight + o * in, in, std::min(kPanel, out - o), mine(layer.forward) + o * in);
    }
    for (int64_t i = 0; i < in; i += kPanel) {
      for (int64_t o = 0; o < out; ++o) {
        std::copy_n(given.weight + o * in + i, std::min(kPanel, in - i),
                    mine(layer.backward) + i * out + o * kPanel);
      }
    }
    if (layer.forward_pairs == nullptr) return;
    pair_up(layer.forward, in, out, const_cast<Pair*>(layer.forward_pairs));
    pair_up(layer.backward, out, in, const_cast<Pair*>(layer.backward_pairs));
  }

  // Columns of one panel from rows [outputs, in], a few inputs at a time, so that they stay in
  // cache.
  static void transpose(const T* rows, int64_t in, int64_t outputs, T* panel) {
    constexpr int64_t kInputs = 64;
    for (int64_t first = 0; first < in; first += kInputs) {
      const int64_t last = std::min(first + kInputs, in);
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t i = first; i < last; ++i) panel[i * kPanel + o] = rows[o * in + i];
      }
    }
  }

  // Panels of pairs from panels of numbers.
  static void pair_up(const T* panels, int64_t depth, int64_t width, Pair* to) {
    for (int64_t panel = 0; panel < width; panel += kPanel, panels += depth * kPanel) {
      for (int64_t i = 0; i < padded(depth); i += 2) {
        const T* const first = panels + i * kPanel;
        for (int64_t o = 0; o < kPanel; ++o) {
          const uint32_t low = i < depth ? to_bf16(first[o]) : 0;
          const uint32_t high = i + 1 < depth ? to_bf16(first[kPanel + o]) : 0;
          *to++ = low | high << 16;
        }
      }
    }
  }

  Arena arena_;
  std::vector<Layer<T>> layers_;
};

}  // namespace aeppt
