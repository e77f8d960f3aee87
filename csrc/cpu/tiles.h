// Products in bf16 on AMX's tiles, two by two of them: 32 rows by the 32 outputs of a panel.
//
// Each output of a row is one chain over the depth, in order, wherever the row lies in its tile, so
// it does not depend on the other rows. AEPPT_TILES names the unit: HardwareTiles, or
// EmulatedTiles, which does the same on any processor, for tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "aeppt/search.h"
#include "multiply.h"

namespace aeppt::AEPPT_VARIANT {

constexpr int64_t kTileRows = 16;   // of inputs; a tile of weights holds as many pairs
constexpr int64_t kTilePairs = 16;  // of a row
static_assert(kPanel == 2 * kTileRows);

// Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights. Each is whole: 16 rows of 64 bytes. Not a
// local variable: GCC believes that the instruction reads eight bytes, and drops what is not read.
constexpr struct alignas(64) {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} kTiles{};

struct HardwareTiles {
  HardwareTiles() { _tile_loadconfig(&kTiles); }
  ~HardwareTiles() { _tile_release(); }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;

  void clear() {
    // GCC's intrinsics do not tell that they read memory: what was written must be there by now.
    asm volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  // Adds the product of 16 pairs of each row: of 16 rows, or 32 where there are `two` tiles.
  void multiply(const Pair* rows, int64_t stride, const Pair* weights, bool two) {
    const int64_t row_bytes = stride * sizeof(Pair), panel_bytes = kPanel * sizeof(Pair);
    _tile_loadd(6, weights, panel_bytes);
    _tile_loadd(7, weights + kTilePairs, panel_bytes);
    _tile_loadd(4, rows, row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (!two) return;
    _tile_loadd(5, rows + kTileRows * stride, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  // The sums, [32][kPanel].
  void store(float* to, bool two) {
    constexpr int64_t kBytes = kPanel * sizeof(float);
    _tile_stored(0, to, kBytes);
    _tile_stored(1, to + kTileRows, kBytes);
    if (!two) return;
    _tile_stored(2, to + kTileRows * kPanel, kBytes);
    _tile_stored(3, to + kTileRows * kPanel + kTileRows, kBytes);
  }
};

struct EmulatedTiles {
  void clear() { std::memset(sums_, 0, sizeof sums_); }
  void multiply(const Pair* rows, int64_t stride, const Pair* weights, bool two) {
    for (int64_t r = 0; r < (two ? 2 : 1) * kTileRows; ++r) {
      for (int64_t pair = 0; pair < kTilePairs; ++pair) {
        const Pair x = rows[r * stride + pair];
        for (int64_t o = 0; o < kPanel; ++o) {
          const Pair w = weights[pair * kPanel + o];
          sums_[r][o] += number(x << 16) * number(w << 16);
          sums_[r][o] += number(x & 0xffff0000) * number(w & 0xffff0000);
        }
      }
    }
  }
  void store(float* to, bool two) { std::memcpy(to, sums_, sizeof sums_ / (two ? 1 : 2)); }

 private:
  static float number(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  float sums_[2 * kTileRows][kPanel];
};

class Tiles {
 public:
  // As Product::run, of rows that lie `stride` pairs apart; there is room for all rows of a tile.
  template <After after>
  void multiply(const Pair* x, int64_t stride, int64_t rows, const Pair* panels,
                int64_t panel_depth, int64_t width, const float* bias, float* const* out) {
    for (int64_t column = 0; column < width; column += kPanel) {
      for (int64_t first = 0; first < rows; first += 2 * kTileRows) {
        const bool two = rows - first > kTileRows;
        unit_.clear();
        for (int64_t i = 0; i < panel_depth; i += kTilePairs) {
          unit_.multiply(x + first * stride + i, stride, panels + i * kPanel, two);
        }
        unit_.store(sums_, two);
        const int64_t count = std::min(rows - first, 2 * kTileRows);
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t v = 0; v < kPanel; v += kLanes) {
            Vector<float> sum = vector(sums_ + r * kPanel + v);
            if (bias != nullptr) sum += vector(bias + column + v);
            store<after, float>(sum, out[first + r] + column + v);
          }
        }
      }
      panels += panel_depth * kPanel;
    }
  }

 private:
  static constexpr int64_t kLanes = kVectorBytes / sizeof(float);
  static Vector<float> vector(const float* from) {
    return *reinterpret_cast<const Vector<float>*>(from);
  }

  AEPPT_TILES unit_;
  alignas(64) float sums_[2 * kTileRows * kPanel];
};

}  // namespace aeppt::AEPPT_VARIANT
