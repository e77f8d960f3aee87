// Feeds fuzz_search.cpp random bytes, where there is no libFuzzer: run_search COUNT.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 100;
  std::mt19937 random(0);
  std::vector<uint8_t> bytes(64);
  for (int i = 0; i < count; ++i) {
    for (uint8_t& byte : bytes) byte = random();
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%d searches kept their guarantees\n", count);
}
