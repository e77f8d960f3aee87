// The products of a block: y = W x + b for some of its rows, all warps taking part.
//
// In full precision an output is the sum of four chains of fused multiply-adds, one over each
// quarter of the inputs, whoever computes them: so a row's answer is the same in every batch.
#pragma once

#include <cmath>
#include <cstdint>

#include "device_lanes.h"
#include "matrix_unit.h"

namespace aeppt::AEPPT_VARIANT {

enum class After { kNothing, kRelu, kMask };  // kMask: zero where y was zero

// What is multiplied: row i of the block has its inputs at x + i * x_stride, and is to get its
// outputs at y + i * y_stride.
template <typename T>
struct Product {
  const T* panels;            // see aeppt/search.h
  const uint32_t* fragments;  // see matrix_unit.h
  const T* bias;              // or null
  Index depth, width;
  const T* x;
  Index x_stride;
  T* y;
  Index y_stride;
  After after;

  // Where the inputs of row i start.
  AEPPT_DEVICE Index input(Index i) const { return i * x_stride; }
  AEPPT_DEVICE T* output(Index i, Index column) const { return y + i * y_stride + column; }
  // What is to be stored at `output`.
  AEPPT_DEVICE T activated(const T* output, T sum) const {
    if (after == After::kRelu) return sum > 0 ? sum : T(0);
    if (after == After::kMask) return *output > 0 ? sum : T(0);
    return sum;
  }
  template <typename Block>
  AEPPT_DEVICE void store(const Block& block, Index i, Index column, T sum) const {
    T* const output = this->output(i, column);
    block.store(output, activated(output, sum));
  }
};

AEPPT_DEVICE inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
AEPPT_DEVICE inline double fused(double a, double b, double c) { return fma(a, b, c); }

// The inputs of one chain: a multiple of four, so that they are loaded four at a time.
AEPPT_DEVICE inline Index quarter(Index depth) { return (depth + 15) / 16 * 4; }

template <typename T>
struct alignas(16) Four {
  T at[4];
};

AEPPT_DEVICE inline Four<uint32_t> load(const Four<uint32_t>* from) {
#ifdef __CUDACC__
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
  return {{words.x, words.y, words.z, words.w}};
#else
  return *from;
#endif
}

// One row: a warp takes eight outputs, a lane one chain of one of them.
template <typename T, typename Block>
AEPPT_DEVICE void multiply_row(const Block& block, const Product<T>& p, Index i) {
  const T* const x = p.x + p.input(i);
  const Index depth = p.depth, length = quarter(depth);
  block.warps((p.width + 7) / 8, [&](Index item, int lane) {
    const Index column = item * 8 + lane % 8, first = lane / 8 * length;
    const Index last = first + length < depth ? first + length : depth;
    const T* const weight = p.panels + int64_t(column / kPanel * kPanel) * depth + column % kPanel;
    T chain = 0;
    AEPPT_UNROLL(8)
    for (Index j = first; j < last; ++j) chain = fused(x[j], __ldg(weight + j * kPanel), chain);
    T sum = __shfl_sync(~0u, chain, lane % 8, kWarp);
    AEPPT_UNROLL(3)
    for (int part = 1; part < 4; ++part) {
      sum += __shfl_sync(~0u, chain, part * 8 + lane % 8, kWarp);
    }
    if (p.bias != nullptr) sum += p.bias[column];
    if (lane < 8 && column < p.width) p.store(block, i, column, sum);
  });
}

// Several rows, which only a block outside of clusters has: a warp takes kRows of them and kColumns
// panels, a lane one output of each panel.
template <int kRows, int kColumns, typename T, typename Block>
AEPPT_DEVICE void multiply_rows(const Block& block, const Product<T>& p, const int32_t* list,
                                Index count) {
  const Index groups = (count + kRows - 1) / kRows, panels = padded(p.width) / kPanel;
  const Index depth = p.depth, length = quarter(depth);
  block.warps(groups * ((panels + kColumns - 1) / kColumns), [&](Index item, int lane) {
    const Index first = item % groups * kRows, panel = item / groups * kColumns;
    // A group that is not full repeats its last row or panel, which is not stored.
    Index input[kRows];
    AEPPT_UNROLL(32)
    for (int r = 0; r < kRows; ++r) {
      input[r] = p.input(list[first + r < count ? first + r : count - 1]);
    }
    const T* weight[kColumns];
    AEPPT_UNROLL(32)
    for (int c = 0; c < kColumns; ++c) {
      weight[c] =
          p.panels + int64_t(panel + c < panels ? panel + c : panels - 1) * kPanel * depth + lane;
    }
    T sum[kRows][kColumns], chain[kRows][kColumns];
    for (int part = 0; part < 4; ++part) {
      const Index begin = part * length, rest = depth - begin;
      const Index end = begin + (rest < length ? rest : length);
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        AEPPT_UNROLL(32)
        for (int c = 0; c < kColumns; ++c) chain[r][c] = 0;
      }
      for (Index at = begin; at < end; at += 4) {
        // Rows are padded with zeros, so that four inputs can be read where fewer are left.
        Four<T> x[kRows];
        AEPPT_UNROLL(32)
        for (int r = 0; r < kRows; ++r)
          x[r] = *reinterpret_cast<const Four<T>*>(p.x + input[r] + at);
        AEPPT_UNROLL(4)
        for (int j = 0; j < 4; ++j) {
          AEPPT_UNROLL(32)
          for (int c = 0; c < kColumns; ++c) {
            const T w = at + j < end ? __ldg(weight[c] + (at + j) * kPanel) : T(0);
            AEPPT_UNROLL(32)
            for (int r = 0; r < kRows; ++r) chain[r][c] = fused(x[r].at[j], w, chain[r][c]);
          }
        }
      }
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        AEPPT_UNROLL(32)
        for (int c = 0; c < kColumns; ++c) {
          sum[r][c] = part == 0 ? chain[r][c] : sum[r][c] + chain[r][c];
        }
      }
    }
    AEPPT_UNROLL(32)
    for (int c = 0; c < kColumns; ++c) {
      const Index column = (panel + c) * kPanel + lane;
      if (column >= p.width) break;
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        if (first + r >= count) break;
        T* const output = p.output(list[first + r], column);
        *output = p.activated(output, p.bias != nullptr ? sum[r][c] + p.bias[column] : sum[r][c]);
      }
    }
  });
}

// Several rows on the matrix units: a warp takes kOutputs tiles of outputs for kRows tiles of rows.
template <int kOutputs, int kRows, typename Unit, typename Block>
AEPPT_DEVICE void multiply_tiles(const Block& block, const Product<float>& p, const int32_t* list,
                                 Index count) {
  constexpr int kWords = Unit::kWords;
  const Index tiles = Fragments<Unit>::tiles(p.width), steps = Fragments<Unit>::steps(p.depth);
  const Index groups = (count + kRows * kTileRows - 1) / (kRows * kTileRows);
  block.warps(groups * ((tiles + kOutputs - 1) / kOutputs), [&](Index item, int lane) {
    const Index first = item % groups * (kRows * kTileRows), tile = item / groups * kOutputs;
    const int g = lane / 4, t = lane % 4;
    // What is missing repeats the last row or tile, and is not stored.
    Index input[kRows];
    const Four<uint32_t>* weight[kOutputs];
    float sum[kOutputs][kRows][4];
    AEPPT_UNROLL(32)
    for (int r = 0; r < kRows; ++r) {
      const Index place = first + r * kTileRows + g;
      input[r] = p.input(list[place < count ? place : count - 1]) + t * 4;
    }
    AEPPT_UNROLL(32)
    for (int o = 0; o < kOutputs; ++o) {
      const Index known = tile + o < tiles ? tile + o : tiles - 1;
      weight[o] = reinterpret_cast<const Four<uint32_t>*>(
          p.fragments + (int64_t(known) * steps * 32 + lane) * kWords);
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        AEPPT_UNROLL(4)
        for (int e = 0; e < 4; ++e) sum[o][r][e] = 0;
      }
    }
    for (Index step = 0; step < steps; ++step) {
      uint32_t a[kOutputs][kWords];
      AEPPT_UNROLL(32)
      for (int o = 0; o < kOutputs; ++o) {
        AEPPT_UNROLL(2)
        for (int part = 0; part < kWords / 4; ++part) {
          const Four<uint32_t> four = load(weight[o] + step * (32 * kWords / 4) + part);
          AEPPT_UNROLL(4)
          for (int w = 0; w < 4; ++w) a[o][4 * part + w] = four.at[w];
        }
      }
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        const Four<float> x =
            *reinterpret_cast<const Four<float>*>(p.x + input[r] + step * kTileInputs);
        AEPPT_UNROLL(32)
        for (int o = 0; o < kOutputs; ++o) Unit::multiply(sum[o][r], a[o], x.at);
      }
    }
    AEPPT_UNROLL(32)
    for (int o = 0; o < kOutputs; ++o) {
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        AEPPT_UNROLL(4)
        for (int e = 0; e < 4; ++e) {
          const Index column = (tile + o) * kTileOutputs + g + e / 2 * 8;
          const Index place = first + r * kTileRows + 2 * t + e % 2;
          if (column >= p.width || place >= count) continue;
          const float bias = p.bias != nullptr ? p.bias[column] : 0;
          p.store(block, list[place], column, sum[o][r][e] + bias);
        }
      }
    }
  });
}

// The shape that leaves few warps idle.
template <typename T, typename Block>
AEPPT_DEVICE void multiply(const Block& block, const Product<T>& p, const int32_t* list,
                           Index count) {
  const Index panels = padded(p.width) / kPanel, groups = (count + 7) / 8;
  if (count == 1) multiply_row(block, p, list[0]);
  else if (groups * panels >= 2 * Block::kWarps) multiply_rows<8, 2>(block, p, list, count);
  else multiply_rows<4, 1>(block, p, list, count);
}

template <typename Unit, typename Block>
AEPPT_DEVICE void multiply_coarsely(const Block& block, const Product<float>& p,
                                    const int32_t* list, Index count) {
  const Index tiles = Fragments<Unit>::tiles(p.width), groups = (count + 15) / 16;
  if (groups * tiles >= 2 * Block::kWarps) multiply_tiles<2, 2, Unit>(block, p, list, count);
  else multiply_tiles<1, 2, Unit>(block, p, list, count);
}

}  // namespace aeppt::AEPPT_VARIANT
