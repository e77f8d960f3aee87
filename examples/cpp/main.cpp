// Serves a protected model from C++: loads an AOTInductor package of a ProtectedModel and prints
// the protected probabilities of each row of numbers on standard input.
//
//   protected_probabilities package.pt2 $(python -c "import aeppt_ext._C as m; print(m.__file__)")
#include <ATen/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " PACKAGE.pt2 OPERATORS.so < ROWS\n";
    return 2;
  }
  // Loading it registers aeppt::perturb_search and aeppt::rank_release; no Python runs.
  if (dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::cerr << "cannot load the operators: " << dlerror() << '\n';
    return 2;
  }
  try {
    std::vector<float> values;
    int64_t rows = 0;
    for (std::string line; std::getline(std::cin, line); ++rows) {
      std::istringstream numbers(line);
      values.insert(values.end(), std::istream_iterator<float>(numbers), {});
    }
    if (rows == 0) return 0;
    const int64_t width = static_cast<int64_t>(values.size()) / rows;
    const at::Tensor inputs = at::from_blob(values.data(), {rows, width}, at::kFloat);

    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    const at::Tensor probs = model.run({inputs}).at(0).exp();  // it returns log-probabilities

    std::cout.precision(9);  // enough to read the same float back
    for (int64_t row = 0; row < probs.size(0); ++row) {
      for (int64_t place = 0; place < probs.size(1); ++place) {
        std::cout << (place ? " " : "") << probs[row][place].item<float>();
      }
      std::cout << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << "cannot predict: " << error.what() << '\n';
    return 1;
  }
}
