// The place of the CUDA kernel. Until it stands here, CUDA tensors are refused with a clear
// message.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

namespace aeppt {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
perturb_search_cuda(const at::Tensor& probs, at::TensorList, at::TensorList, c10::string_view,
                    c10::string_view, c10::string_view, c10::string_view, double, int64_t, double,
                    double, int64_t, std::optional<double>, bool, c10::string_view,
                    c10::string_view) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "this version of aeppt searches on the CPU only, got probs on ",
                              probs.device(), "; pass probs.cpu() and a defense on the CPU");
}

}  // namespace

TORCH_LIBRARY_IMPL(aeppt, CUDA, library) { library.impl("perturb_search", &perturb_search_cuda); }

}  // namespace aeppt
