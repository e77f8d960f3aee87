// Matrix units: D = A B + C for tiles of 16 outputs (A, the weights), 8 rows of the batch (B, their
// inputs) and 16 inputs, in bf16 or tf32, summed in float32.
//
// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" (bf16) and "for
// mma.m16n8k8" (tf32): with g = lane / 4 and t = lane % 4, a lane holds outputs g and g + 8 of A,
// row g of B, and outputs g and g + 8 of rows 2t and 2t + 1 of C. Which inputs it holds is free as
// long as A and B agree: here the four from 4t on, so that it loads them at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "aeppt/lanes.h"
#include "aeppt/search.h"

namespace aeppt::AEPPT_VARIANT {

constexpr int kTileOutputs = 16, kTileRows = 8, kTileInputs = 16;

template <Precision precision>
struct MatrixUnit;

AEPPT_DEVICE inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

#ifndef __CUDACC__
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The instruction, for one lane of the emulated warp: `pairs` inputs share a word.
template <int kPairs>
void emulate_mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Words {
    uint32_t word[4];
  };
  Threads& threads = *Threads::current;
  const auto all = [&threads](const Words& own, Words(&of)[kWarpThreads]) {
    threads.post(own);
    threads.wait_for_lanes(~0u, false);
    for (int lane = 0; lane < kWarpThreads; ++lane) of[lane] = threads.posted<Words>(lane);
    threads.wait_for_lanes(~0u, false);
  };
  Words as[kWarpThreads], bs[kWarpThreads];
  all({{a[0], a[1], a[2], a[3]}}, as);
  all({{b[0], b[1], 0, 0}}, bs);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads, g = lane / 4, t = lane % 4;
  for (int e = 0; e < 4; ++e) {
    double sum = c[e];
    const int row = 2 * t + e % 2;
    for (int input = 0; input < 8 * kPairs; ++input) {
      const int holder = input / kPairs % 4, word = input / (4 * kPairs);
      const auto value = [input](uint32_t bits) -> double {
        if (kPairs == 1) return float_of(bits & ~0x1fffu);
        return float_of(input % 2 == 0 ? bits << 16 : bits & ~0xffffu);
      };
      sum +=
          value(as[g * 4 + holder].word[2 * word + e / 2]) * value(bs[row * 4 + holder].word[word]);
    }
    c[e] = static_cast<float>(sum);
  }
}
#endif

template <>
struct MatrixUnit<Precision::kBf16> {
  static constexpr int kWords = 4;  // of A, per lane and tile

  // To nearest, ties to even.
  AEPPT_DEVICE static uint32_t rounded(float value) {
    const uint32_t bits = bits_of(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
  AEPPT_DEVICE static uint32_t pair(float low, float high) {
#ifdef __CUDACC__
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return rounded(low) | rounded(high) << 16;
#endif
  }
  // One word of A; at(output, input) gives the weight.
  template <typename At>
  AEPPT_DEVICE static uint32_t word(int64_t output, int64_t input, int word, At at) {
    output += word % 2 * 8;
    input += word / 2 * 2;
    return rounded(at(output, input)) | rounded(at(output, input + 1)) << 16;
  }
  AEPPT_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[kWords],
                                    const float (&inputs)[4]) {
    const uint32_t b[2] = {pair(inputs[0], inputs[1]), pair(inputs[2], inputs[3])};
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulate_mma<2>(c, a, b);
#endif
  }
};

template <>
struct MatrixUnit<Precision::kTf32> {
  static constexpr int kWords = 8;

  // To nearest, ties away from zero.
  AEPPT_DEVICE static uint32_t rounded(float value) { return (bits_of(value) + 0x1000) & ~0x1fffu; }

  template <typename At>
  AEPPT_DEVICE static uint32_t word(int64_t output, int64_t input, int word, At at) {
    return rounded(at(output + word % 2 * 8, input + word / 2));
  }
  AEPPT_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[kWords],
                                    const float (&inputs)[4]) {
    AEPPT_UNROLL(2)
    for (int half = 0; half < 2; ++half) {
      const uint32_t part[4] = {a[4 * half], a[4 * half + 1], a[4 * half + 2], a[4 * half + 3]};
      const uint32_t b[2] = {rounded(inputs[2 * half]), rounded(inputs[2 * half + 1])};
#ifdef __CUDACC__
      asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(part[0]), "r"(part[1]), "r"(part[2]), "r"(part[3]), "r"(b[0]), "r"(b[1]));
#else
      emulate_mma<1>(c, part, b);
#endif
    }
  }
};

// f(unit) for the unit of a precision below float32.
template <typename F>
AEPPT_DEVICE void with_matrix_unit(Precision precision, F f) {
  if (precision == Precision::kBf16) f(MatrixUnit<Precision::kBf16>());
  else f(MatrixUnit<Precision::kTf32>());
}

// Weights in fragments: [outputs / 16][inputs / 16][lane][words], zero beyond the layer.
template <typename Unit>
struct Fragments {
  static constexpr int64_t steps(int64_t depth) { return (depth + kTileInputs - 1) / kTileInputs; }
  static constexpr int64_t tiles(int64_t width) {
    return (width + kTileOutputs - 1) / kTileOutputs;
  }
  static constexpr int64_t words(int64_t depth, int64_t width) {
    return tiles(width) * steps(depth) * 32 * Unit::kWords;
  }
  // The word at one place; at(output, input) gives the weight.
  template <typename At>
  AEPPT_DEVICE static uint32_t word(int64_t place, int64_t depth, int64_t width, At at) {
    const int64_t fragment = place / (32 * Unit::kWords);
    const int lane = static_cast<int>(place / Unit::kWords % 32);
    const auto weight = [=](int64_t output, int64_t input) {
      return output < width && input < depth ? at(output, input) : 0.0f;
    };
    return Unit::word(fragment / steps(depth) * kTileOutputs + lane / 4,
                      fragment % steps(depth) * kTileInputs + lane % 4 * 4,
                      static_cast<int>(place % Unit::kWords), weight);
  }
};

}  // namespace aeppt::AEPPT_VARIANT
