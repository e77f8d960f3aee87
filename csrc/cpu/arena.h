// Zeroed memory in whole cache lines, handed out in pieces.
//
// All pieces are taken once, to learn how much they are, and once more when the memory is there:
//   lay_out(arena); arena.allocate(); lay_out(arena);
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace aeppt {

class Arena {
 public:
  void allocate() {
    lines_.resize(taken_);
    taken_ = 0;
  }
  // A piece of `count` elements, which starts at a cache line.
  template <typename U>
  U* take(size_t count) {
    const uintptr_t base = reinterpret_cast<uintptr_t>(lines_.data());
    U* const piece = reinterpret_cast<U*>(base + taken_ * sizeof(Line));
    taken_ += (count * sizeof(U) + sizeof(Line) - 1) / sizeof(Line);
    return piece;
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
  size_t taken_ = 0;
};

}  // namespace aeppt
