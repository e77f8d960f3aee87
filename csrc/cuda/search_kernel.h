// The kernels and their launch, for one type of element: packs the substitute, then searches all
// rows in one launch. To be instantiated per type; see docs/kernel.md.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <vector>

#define AEPPT_INDEX int32_t
#define AEPPT_VARIANT cuda
#include "block_search.h"
#include "launch.h"

namespace aeppt::cuda {

constexpr int kBlocksPerMultiprocessor = 2;
constexpr int64_t kMostSlots = 32;
// Slots of a block whose rows are too long for shared memory.
constexpr int64_t kWorkspaceSlots = 8;

// What both kernels are given; it has to fit into a kernel's parameters.
template <typename T>
struct Task {
  Search<T> search;
  TileLayout<T> layout;
  Counter* next_row;
  char* workspace;  // [blocks][layout.bytes]; null where the slots lie in shared memory
  bool coarse;
  Layer<T> layers[kMostLayers];
  LayerFragments fragments[kMostLayers];
};

// ---- packing ----

template <typename T>
struct Substitute {
  struct {
    const T *weight, *bias;  // contiguous [out, in], [out]
  } layers[kMostLayers];
};

// Stores value(i) at each place i of an array of n; all threads of the grid share the work.
template <typename T, typename F>
__device__ void fill(const T* array, int64_t n, F value) {
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < n; i += int64_t(gridDim.x) * kThreads) {
    const_cast<T*>(array)[i] = value(i);
  }
}

template <typename T, typename At>
__device__ void fill_panels(const T* panels, int64_t depth, int64_t width, At at) {
  fill(panels, padded(width) * depth, [=](int64_t i) {
    const int64_t output = i / (kPanel * depth) * kPanel + i % kPanel;
    return output < width ? at(output, i / kPanel % depth) : T(0);
  });
}

template <typename Unit, typename At>
__device__ void fill_fragments(const uint32_t* fragments, int64_t depth, int64_t width, At at) {
  fill(fragments, Fragments<Unit>::words(depth, width),
       [=](int64_t i) { return Fragments<Unit>::word(i, depth, width, at); });
}

template <typename T>
__global__ void pack_kernel(const __grid_constant__ Task<T> task,
                            const __grid_constant__ Substitute<T> substitute) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *task.next_row = 0;
  for (int32_t l = 0; l < task.search.layer_count; ++l) {
    const Layer<T>& layer = task.layers[l];
    const int64_t in = layer.in, out = layer.out;
    const T *const weight = substitute.layers[l].weight, *const bias = substitute.layers[l].bias;
    fill(layer.bias, padded(out), [=](int64_t i) { return i < out ? bias[i] : T(0); });
    if (l + 1 == task.search.layer_count) {
      fill(layer.forward, in, [=](int64_t i) { return weight[i]; });
      return;
    }
    const auto at = [=](int64_t output, int64_t input) { return weight[output * in + input]; };
    const auto turned = [=](int64_t output, int64_t input) { return weight[input * in + output]; };
    fill_panels(layer.forward, in, out, at);
    fill_panels(layer.backward, out, in, turned);
    if constexpr (std::is_same_v<T, float>) {
      if (!task.coarse) continue;
      const LayerFragments& fragments = task.fragments[l];
      with_matrix_unit(task.search.options.precision, [=](auto unit) {
        fill_fragments<decltype(unit)>(fragments.forward, in, out, at);
        fill_fragments<decltype(unit)>(fragments.backward, out, in, turned);
      });
    }
  }
}

// ---- search ----

template <typename T, int kLanes, bool kShared>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    search_kernel(const __grid_constant__ Task<T> task) {
  extern __shared__ uint4 shared[];
  char* const memory = kShared ? reinterpret_cast<char*>(shared)
                               : task.workspace + int64_t(blockIdx.x) * task.layout.bytes;
  BlockSearch<T, Block<kLanes, kThreads>>(
      task.search, task.layers, task.coarse ? task.fragments : nullptr, task.layout, memory)
      .run(task.next_row);
}

inline int64_t device_attribute(cudaDeviceAttr attribute) {
  int value;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, c10::cuda::current_device()));
  return value;
}

// How the rows are spread over the device.
template <typename T>
struct Spread {
  TileLayout<T> layout;
  int64_t blocks;
  bool shared;

  static Spread of(const Search<T>& search, const Layer<T>* layers, int64_t teams) {
    const int64_t n = search.rows;
    const int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
    const auto layout = [&](int64_t slots) {
      return TileLayout<T>::of(search, layers, slots, teams);
    };
    // As many slots as `blocks` on each multiprocessor need and their memory holds.
    const auto fitting = [&](int64_t blocks) {
      const int64_t memory =
          blocks == 1 ? device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)
                      : device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / blocks -
                            device_attribute(cudaDevAttrReservedSharedMemoryPerBlock);
      int64_t slots =
          std::clamp<int64_t>((n + blocks * processors - 1) / (blocks * processors), 1, kMostSlots);
      while (slots > 0 && layout(slots).bytes + int64_t(sizeof(BlockScratch)) > memory) --slots;
      return slots;
    };
    // One block of more slots is better than two of few: rows share the weights that are read.
    const int64_t two = fitting(2), one = fitting(1);
    const bool shared = one > 0;
    const int64_t per_processor = !shared || (two > 0 && 2 * two >= one) ? 2 : 1;
    const int64_t slots = !shared ? std::min(n, kWorkspaceSlots) : per_processor == 2 ? two : one;
    return {layout(slots), std::min((n + slots - 1) / slots, per_processor * processors), shared};
  }
};

template <typename T, int kLanes, bool kShared>
void start(const Task<T>& task, int64_t blocks, cudaStream_t stream) {
  const auto kernel = search_kernel<T, kLanes, kShared>;
  const int64_t bytes = kShared ? task.layout.bytes : 0;
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)));
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(task);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, int kLanes>
void search_on(Task<T>& task, const at::TensorOptions& bytes, cudaStream_t stream) {
  const auto spread = Spread<T>::of(task.search, task.layers, kThreads / kLanes);
  task.layout = spread.layout;
  if (spread.shared) return start<T, kLanes, true>(task, spread.blocks, stream);
  const at::Tensor workspace = at::empty({spread.blocks * task.layout.bytes}, bytes);
  task.workspace = reinterpret_cast<char*>(workspace.data_ptr<uint8_t>());
  start<T, kLanes, false>(task, spread.blocks, stream);
}

template <typename T>
void search_rows(const Search<T>& search, at::TensorList weights, at::TensorList biases) {
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const at::TensorOptions bytes = weights[0].options().dtype(at::kByte);
  Task<T> task{};
  task.search = search;
  task.coarse = std::is_same_v<T, float> && search.options.precision != Precision::kFloat32;
  Substitute<T> substitute{};
  std::vector<at::Tensor> kept;

  // The same walk twice: how much memory the packed substitute takes, then where each array lies.
  const bool bf16 = search.options.precision == Precision::kBf16;
  const auto lay_out = [&](uint8_t* memory) {
    int64_t at = 0;
    const auto take = [&](auto*& array, int64_t n) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(memory + at);
      at += (n * int64_t(sizeof *array) + 15) / 16 * 16;
    };
    take(task.next_row, 1);
    for (int32_t l = 0; l < search.layer_count; ++l) {
      Layer<T>& layer = task.layers[l];
      layer.in = weights[l].size(1);
      layer.out = weights[l].size(0);
      take(layer.bias, padded(layer.out));
      if (l + 1 == search.layer_count) {
        take(layer.forward, layer.in);
        continue;
      }
      take(layer.forward, padded(layer.out) * layer.in);
      take(layer.backward, padded(layer.in) * layer.out);
      if (!task.coarse) continue;
      const auto words = [bf16](int64_t depth, int64_t width) {
        return bf16 ? Fragments<MatrixUnit<Precision::kBf16>>::words(depth, width)
                    : Fragments<MatrixUnit<Precision::kTf32>>::words(depth, width);
      };
      take(task.fragments[l].forward, words(layer.in, layer.out));
      take(task.fragments[l].backward, words(layer.out, layer.in));
    }
    return at;
  };
  const at::Tensor packed = at::empty({lay_out(nullptr)}, bytes);
  const int64_t size = lay_out(packed.data_ptr<uint8_t>());
  for (int32_t l = 0; l < search.layer_count; ++l) {
    kept.push_back(weights[l].contiguous());
    kept.push_back(biases[l].contiguous());
    substitute.layers[l] = {kept[2 * l].template const_data_ptr<T>(),
                            kept[2 * l + 1].template const_data_ptr<T>()};
  }
  const int64_t blocks = std::min<int64_t>(size / (16 * kThreads) + 1,
                                           device_attribute(cudaDevAttrMultiProcessorCount));
  pack_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(task, substitute);
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  with_team(search.classes,
            [&](auto lanes) { search_on<T, decltype(lanes)::value>(task, bytes, stream); });
}

}  // namespace aeppt::cuda
