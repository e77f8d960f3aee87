// The op aeppt::rank_release: its schema and its CPU form.
//
// The fake (meta) form stands in aeppt_ext/ops.py; the CUDA form in csrc/cuda/.
#include "rank_release.h"

#include <torch/library.h>

#include "../cpu/release_variants.h"
#include "workers.h"

namespace aeppt {
namespace {

constexpr int64_t kKeyBytes = 16;

uint64_t word_of(const uint8_t* bytes) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word |= uint64_t{bytes[i]} << 8 * i;
  return word;
}

template <typename T>
void release_cpu(const ReleaseArguments& given, const ReleaseOutputs& outputs) {
  const Release<T> release = make_release<T>(given, outputs);
  const int64_t size = rows_of_block(release.classes);
  const int64_t count = (release.rows + size - 1) / size;
  const ReleaseBlocks<T> release_blocks = chosen_release().release_blocks<T>();
  const Workers workers(count);
  RowQueue blocks(count, check_signals);
  run_workers(workers, blocks, [&] { release_blocks(release, blocks); });
}

void release_cpu(const ReleaseArguments& given, const ReleaseOutputs& outputs, bool) {
  if (given.probs.scalar_type() == at::kFloat) release_cpu<float>(given, outputs);
  else release_cpu<double>(given, outputs);
}

}  // namespace

void ReleaseArguments::check() const {
  check_probs(probs);
  const int64_t k = probs.size(1);
  TORCH_CHECK_VALUE(confidence_edges.dim() == 1, "confidence_edges must be [c - 1], got ",
                    confidence_edges.sizes());
  const int64_t c = confidence_edges.size(0) + 1;
  TORCH_CHECK_VALUE(shape_edges.dim() == 2 && shape_edges.size(0) == c, "shape_edges must be [", c,
                    ", s - 1], got ", shape_edges.sizes());
  const int64_t cells = c * (shape_edges.size(1) + 1);
  TORCH_CHECK_VALUE(map_of_class.dim() == 1 && map_of_class.size(0) == k, "map_of_class must be [",
                    k, "], got ", map_of_class.sizes());
  TORCH_CHECK_VALUE(cumulative.dim() == 3 && cumulative.size(0) >= 1 &&
                        cumulative.size(1) == cells && cumulative.size(2) == cells,
                    "cumulative must be [m, ", cells, ", ", cells, "] for ", cells, " cells, got ",
                    cumulative.sizes());
  TORCH_CHECK_VALUE(codebook.dim() == 2 && codebook.size(0) == cells && codebook.size(1) == k,
                    "codebook must be [", cells, ", ", k, "], got ", codebook.sizes());
  TORCH_CHECK_VALUE(key.dim() == 1 && key.size(0) == kKeyBytes, "key must be [", kKeyBytes,
                    "], got ", key.sizes());
  const auto check_kind = [&](const char* name, const at::Tensor& tensor, at::ScalarType type) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == type, name, " must be ", type, ", got ",
                     tensor.scalar_type());
    TORCH_CHECK_VALUE(tensor.device() == probs.device(), name, " must be on the device of probs, ",
                      probs.device(), ", got ", tensor.device());
  };
  check_kind("confidence_edges", confidence_edges, at::kDouble);
  check_kind("shape_edges", shape_edges, at::kDouble);
  check_kind("map_of_class", map_of_class, at::kInt);
  check_kind("cumulative", cumulative, at::kDouble);
  check_kind("codebook", codebook, probs.scalar_type());
  TORCH_CHECK_TYPE(key.scalar_type() == at::kByte, "key must be uint8, got ", key.scalar_type());
  TORCH_CHECK_VALUE(key.is_cpu(), "key must be on the CPU, got ", key.device());
}

SipKey ReleaseArguments::sip_key() const {
  const at::Tensor bytes = key.contiguous();
  const uint8_t* const byte = bytes.const_data_ptr<uint8_t>();
  return {word_of(byte), word_of(byte + 8)};
}

TORCH_LIBRARY_FRAGMENT(aeppt, library) {
  library.def(
      "rank_release(Tensor probs, Tensor confidence_edges, Tensor shape_edges, "
      "Tensor map_of_class, Tensor cumulative, Tensor codebook, Tensor key, str on_invalid) "
      "-> (Tensor probs, Tensor status, Tensor codeword)");
}

TORCH_LIBRARY_IMPL(aeppt, CPU, library) {
  library.impl("rank_release", &rank_release<release_cpu>);
}

}  // namespace aeppt
