// The Python module aeppt_ext._C: loading it registers the ops and lets signals end their calls; it
// also tells how it was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "../cpu/variants.h"
#include "workers.h"

#define AEPPT_QUOTE_(text) #text
#define AEPPT_QUOTE(text) AEPPT_QUOTE_(text)

PYBIND11_MODULE(_C, module) {
  aeppt::check_signals = [] {
    const pybind11::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  };
  module.doc() = "Compiled kernels of aeppt, and facts about their build.";
  module.attr("version") = AEPPT_QUOTE(AEPPT_VERSION);
#if defined(__clang__)
  module.attr("compiler") = "clang " __clang_version__;
#else
  module.attr("compiler") = "gcc " __VERSION__;
#endif
  // CUDA architectures of this build, "8.0;9.0+PTX"; empty in a CPU build.
  module.attr("cuda_architectures") = AEPPT_QUOTE(AEPPT_CUDA_ARCHITECTURES);
  module.def(
      "instruction_sets",
      [] {
        std::map<std::string, bool> supported;
        for (const aeppt::Variant* variant : aeppt::built_variants()) {
          supported[variant->name] = variant->supported();
        }
        return supported;
      },
      "The CPU variants that were built, and whether this processor supports each.");
  module.def(
      "instruction_set", [] { return std::string(aeppt::chosen_variant().name); },
      "The CPU variant in use; AEPPT_ISA in the environment names another.");
}
