// Products of a few rows with a packed weight matrix, the inner loop of the substitute.
//
// Each output is one chain of fused multiply-adds over the depth, in order. So a row's result does
// not depend on how many other rows are in the product, nor on which block they fall into.
//
// The inputs and the weights are those of a *unit*: numbers of type T in full precision (Full), or
// pairs of bf16 numbers where the processor multiplies them (Pairs).
#pragma once

#include <cstdint>

#include "aeppt/search.h"

#if AEPPT_VECTOR_BYTES > 16
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace aeppt::AEPPT_VARIANT {

// The variant says how wide its vectors are: the compiler's own macros do not follow its pragma.
constexpr int kVectorBytes = AEPPT_VECTOR_BYTES;
// Vector registers that may hold sums; the rest are for weights and one broadcast value.
#if AEPPT_VECTOR_BYTES == 64 || defined(__ARM_NEON)
constexpr int kAccumulators = 24;  // of 32
#elif AEPPT_VECTOR_BYTES == 32
constexpr int kAccumulators = 12;  // of 16
#else
constexpr int kAccumulators = 8;  // of 16; a multiply and an add need one more
#endif

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
};
template <>
struct VectorOf<Pair> {
  typedef Pair type __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
struct Full {
  using In = T;
  using Sum = T;

  static Vector<T> multiply_add(Vector<T> a, Vector<T> b, Vector<T> c) {
    constexpr bool is_float = sizeof(T) == 4;
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (is_float) return _mm512_fmadd_ps(a, b, c);
    else return _mm512_fmadd_pd(a, b, c);
#elif AEPPT_VECTOR_BYTES == 32
    if constexpr (is_float) return _mm256_fmadd_ps(a, b, c);
    else return _mm256_fmadd_pd(a, b, c);
#elif defined(__ARM_NEON)
    if constexpr (is_float) return vfmaq_f32(c, a, b);
    else return vfmaq_f64(c, a, b);
#else
    (void)is_float;
    return a * b + c;
#endif
  }
};

#ifdef AEPPT_BF16
struct Pairs {
  using In = Pair;
  using Sum = float;

  static Vector<float> multiply_add(Vector<Pair> a, Vector<Pair> b, Vector<float> c) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
  }
};

// Rounds n numbers to bf16; the second of the last pair is zero where n is odd.
inline void make_pairs(const float* numbers, int64_t n, Pair* pairs) {
  constexpr int kLanes = 16;
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    const auto part = [=](int64_t first) {
      const int64_t count = n - first;
      const __mmask16 valid = count <= 0 ? 0 : count >= kLanes ? 0xffff : (1 << count) - 1;
      return _mm512_maskz_loadu_ps(valid, numbers + first);
    };
    _mm512_storeu_si512(pairs + i / 2, (__m512i)_mm512_cvtne2ps_pbh(part(i + kLanes), part(i)));
  }
}
#endif

// Long sums are cut into pieces of this depth, so that the weights in use (at most 32 KiB) stay in
// cache for all rows.
constexpr int64_t kDepth = 128;

// What becomes of a product before it is stored.
enum class After { kNothing, kRelu, kMask };  // kMask: zero where the stored activation is zero

template <After after, typename T>
inline void store(Vector<T> sum, T* to) {
  auto* const target = reinterpret_cast<Vector<T>*>(to);
  const Vector<T> zero{};
  if constexpr (after == After::kRelu) *target = sum > zero ? sum : zero;
  else if constexpr (after == After::kMask) *target = *target > zero ? sum : zero;
  else *target = sum;
}

template <typename Unit, After after>
struct Product {
  using In = typename Unit::In;
  using Sum = typename Unit::Sum;
  static constexpr int kLanes = kVectorBytes / sizeof(Sum);
  static constexpr int kPerPanel = kPanel / kLanes;

  template <int Rows, int Vectors>
  static void block(const In* const* x, const In* panels, int64_t panel_stride, int64_t depth,
                    int64_t first, const Sum* bias, Sum* const* out, int64_t column) {
    Vector<Sum> sum[Rows][Vectors];
    const In* row[Rows];
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      row[r] = x[r] + first;
      const Sum* const initial = first > 0 ? out[r] : bias;
#pragma GCC unroll 32
      for (int v = 0; v < Vectors; ++v) {
        const int64_t offset = column + (v / kPerPanel) * kPanel + (v % kPerPanel) * kLanes;
        sum[r][v] =
            initial ? *reinterpret_cast<const Vector<Sum>*>(initial + offset) : Vector<Sum>{};
      }
    }
    for (int64_t i = 0; i < depth; ++i) {
      Vector<In> weight[Vectors];
#pragma GCC unroll 32
      for (int v = 0; v < Vectors; ++v) {
        weight[v] = *reinterpret_cast<const Vector<In>*>(panels + (v / kPerPanel) * panel_stride +
                                                         i * kPanel + (v % kPerPanel) * kLanes);
      }
#pragma GCC unroll 32
      for (int r = 0; r < Rows; ++r) {
        const Vector<In> value = row[r][i] - Vector<In>{};  // broadcast
#pragma GCC unroll 32
        for (int v = 0; v < Vectors; ++v) {
          sum[r][v] = Unit::multiply_add(value, weight[v], sum[r][v]);
        }
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) {
        store<after, Sum>(sum[r][v],
                          out[r] + column + (v / kPerPanel) * kPanel + (v % kPerPanel) * kLanes);
      }
    }
  }

  // A few panels (or the first Vectors vectors of one) for all rows, in blocks of as many rows as
  // the registers hold.
  template <int Vectors, int Rows = (kAccumulators > Vectors ? kAccumulators / Vectors : 1)>
  static void columns(const In* const* x, int64_t rows, const In* panels, int64_t stride,
                      int64_t depth, int64_t first, const Sum* bias, Sum* const* out,
                      int64_t column) {
    for (; rows >= Rows; x += Rows, out += Rows, rows -= Rows) {
      block<Rows, Vectors>(x, panels, stride, depth, first, bias, out, column);
    }
    if constexpr (Rows > 1) {
      if (rows > 0) {
        columns<Vectors, Rows - 1>(x, rows, panels, stride, depth, first, bias, out, column);
      }
    }
  }

  // The same over the whole depth, piece by piece.
  template <int Vectors>
  static void pieces(const In* const* x, int64_t rows, const In* panels, int64_t stride,
                     int64_t depth, const Sum* bias, Sum* const* out, int64_t column) {
    int64_t first = 0;
    if constexpr (after != After::kMask) {  // a mask is read from where partial sums would stand
      for (; first + kDepth < depth; first += kDepth) {
        Product<Unit, After::kNothing>::template columns<Vectors>(
            x, rows, panels + first * kPanel, stride, kDepth, first, bias, out, column);
      }
    }
    columns<Vectors>(x, rows, panels + first * kPanel, stride, depth - first, first, bias, out,
                     column);
  }

  // out[r][0..width) = bias + x[r] * weights, where a panel holds `panel_depth` inputs, of which
  // the first `depth` count. Four vectors go together, which takes few loads per multiply-add; more
  // with one row, which alone has too few independent sums to hide the latency of a multiply-add.
  static void run(const In* const* x, int64_t rows, const In* panels, int64_t panel_depth,
                  int64_t depth, int64_t width, const Sum* bias, Sum* const* out) {
    constexpr int kTogether = kAccumulators / kPerPanel >= 4 ? 4 : 1;
    constexpr int kAbreast = kPerPanel < 4 ? 4 / kPerPanel : 1;
    const int64_t stride = panel_depth * kPanel;
    int64_t column = 0;
    if (rows == 1) {
      for (; column + kTogether * kPanel <= width; column += kTogether * kPanel) {
        block<1, kTogether * kPerPanel>(x, panels, stride, depth, 0, bias, out, column);
        panels += kTogether * stride;
      }
    }
    for (; column < width; column += kAbreast * kPanel, panels += kAbreast * stride) {
      const int64_t left = width - column;
      if (left <= kLanes) pieces<1>(x, rows, panels, stride, depth, bias, out, column);
      else if (left <= 2 * kLanes) pieces<2>(x, rows, panels, stride, depth, bias, out, column);
      else if (left <= 3 * kLanes) pieces<3>(x, rows, panels, stride, depth, bias, out, column);
      else pieces<kAbreast * kPerPanel>(x, rows, panels, stride, depth, bias, out, column);
    }
  }
};

}  // namespace aeppt::AEPPT_VARIANT
