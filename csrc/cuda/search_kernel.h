// The kernels and their launch, for one type of element: packs the substitute, then searches all
// rows in one launch. To be instantiated per type; see docs/kernel.md.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#define AEPPT_VARIANT cuda
#include "block_search.h"
#include "launch.h"

namespace aeppt::cuda {

// Blocks that share a multiprocessor, whose registers they divide.
template <typename T>
constexpr int kBlocksPerMultiprocessor = std::is_same_v<T, float> ? 2 : 1;
constexpr int64_t kMostSlots = 32;
constexpr int64_t kMostBlocksOfCluster = 8;  // what every device with clusters allows
// Slots of a block whose rows are too long for shared memory.
constexpr int64_t kWorkspaceSlots = 8;

using Counter = unsigned long long;

// What both kernels are given; it has to fit into a kernel's parameters.
template <typename T>
struct Task {
  Search<T> search;
  TileLayout<T> layout;
  Counter* next_row;          // one for all blocks, or one for each where they form clusters
  int64_t counters, cluster;  // blocks of a cluster, all of which count alike
  char* workspace;            // [blocks][layout.bytes]; null where the slots lie in shared memory
  bool coarse;
  Layer<T> layers[kMostLayers];
  LayerFragments fragments[kMostLayers];
};

// ---- packing ----

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
  const int64_t cluster = task.cluster;
  fill(task.next_row, task.counters, [=](int64_t block) -> Counter { return block / cluster; });
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
__global__ void __launch_bounds__(kThreads, kShared ? kBlocksPerMultiprocessor<T> : 1)
    search_kernel(const __grid_constant__ Task<T> task) {
  extern __shared__ uint4 shared[];
  char* const memory = kShared ? reinterpret_cast<char*>(shared)
                               : task.workspace + int64_t(blockIdx.x) * task.layout.bytes;
  BlockSearch<T, Block<kLanes>>(task.search, task.layers, task.fragments, task.layout, memory)
      .run([&task] {
        const int clusters = gridDim.x / cluster_size();
        Counter* const next = task.next_row + (cluster_size() > 1 ? blockIdx.x : 0);
        return static_cast<int64_t>(atomicAdd(next, cluster_size() > 1 ? clusters : 1));
      });
}

constexpr int64_t ceil_of(int64_t n, int64_t parts) { return (n + parts - 1) / parts; }

// How the rows are spread over the device, in shared memory; no blocks where no row fits there.
template <typename T>
struct Spread {
  TileLayout<T> layout;
  int64_t blocks, cluster;

  static Spread of(const Search<T>& search, const Layer<T>* layers, int64_t teams,
                   const Device& device) {
    const auto layout = [&](int64_t slots) {
      return TileLayout<T>::of(search, layers, slots, teams);
    };
    // As many slots as this many blocks on each multiprocessor need and their memory holds.
    const auto fitting = [&](int64_t blocks) {
      const int64_t memory = std::min(device.memory_of_block,
                                      device.memory / blocks - device.memory_reserved_by_block) -
                             kScratchBytes;
      int64_t slots = std::min(ceil_of(search.rows, blocks * device.multiprocessors), kMostSlots);
      while (slots > 0 && layout(slots).bytes > memory) --slots;
      return slots;
    };
    // One block of more slots is better than two of few: rows share the weights that are read.
    const int64_t two = fitting(2), one = fitting(1);
    if (one == 0) return {};
    if (device.has_clusters) {
      // Few rows: the blocks of a cluster share the products of one.
      int64_t cluster = kMostBlocksOfCluster;
      while (cluster > 1 && search.rows * cluster > device.multiprocessors) cluster /= 2;
      if (cluster > 1) return {layout(1), search.rows * cluster, cluster};
    }
    const bool pair = kBlocksPerMultiprocessor<T> == 2 && two > 0 && 2 * two >= one;
    const int64_t slots = pair ? two : one, most = (pair ? 2 : 1) * device.multiprocessors;
    return {layout(slots), std::min(ceil_of(search.rows, slots), most), 1};
  }
};

template <typename T, int kLanes, bool kShared>
cudaError_t start(const Task<T>& task, int64_t blocks, const Device& device, cudaStream_t stream) {
  const auto kernel = search_kernel<T, kLanes, kShared>;
  const int64_t bytes = kShared ? task.layout.bytes : 0;
  const cudaError_t error = allow_all_memory(kernel, device, kScratchBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(task.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = task.cluster > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, task);
}

// Where the packed substitute lies in `memory`, which may be null; how many bytes it takes.
template <typename T>
int64_t lay_out(Task<T>& task, const Substitute<T>& substitute, char* memory) {
  const bool bf16 = task.search.options.precision == Precision::kBf16;
  const auto words = [bf16](int64_t depth, int64_t width) {
    return bf16 ? Fragments<MatrixUnit<Precision::kBf16>>::words(depth, width)
                : Fragments<MatrixUnit<Precision::kTf32>>::words(depth, width);
  };
  int64_t at = 0;
  const auto take = [&](auto*& array, int64_t n) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(memory + at);
    at += (n * int64_t(sizeof *array) + 15) / 16 * 16;
  };
  take(task.next_row, task.counters);
  for (int32_t l = 0; l < task.search.layer_count; ++l) {
    Layer<T>& layer = task.layers[l];
    take(layer.bias, padded(layer.out));
    if (l + 1 == task.search.layer_count) {
      take(layer.forward, layer.in);
      continue;
    }
    take(layer.forward, padded(layer.out) * layer.in);
    take(layer.backward, padded(layer.in) * layer.out);
    if (!task.coarse) continue;
    take(task.fragments[l].forward, words(layer.in, layer.out));
    take(task.fragments[l].backward, words(layer.out, layer.in));
  }
  return at;
}

template <typename T>
cudaError_t search_rows(const Search<T>& search, const Substitute<T>& substitute,
                        const Device& device, const Allocate& allocate, cudaStream_t stream) {
  Task<T> task{};
  task.search = search;
  task.coarse = std::is_same_v<T, float> && search.options.precision != Precision::kFloat32;
  for (int32_t l = 0; l < search.layer_count; ++l) {
    task.layers[l] = {.in = substitute.layers[l].in, .out = substitute.layers[l].out};
  }
  const int64_t slots = std::min(search.rows, kWorkspaceSlots);
  Spread<T> spread{};
  with_team(search.classes, [&](auto lanes) {
    spread = Spread<T>::of(search, task.layers, kThreads / decltype(lanes)::value, device);
  });
  const bool shared = spread.blocks > 0;
  if (!shared) {
    spread = {TileLayout<T>::of(search, task.layers, slots, 1),
              std::min(ceil_of(search.rows, slots), device.multiprocessors), 1};
    task.workspace = allocate(spread.blocks * spread.layout.bytes);
  }
  task.layout = spread.layout;
  task.cluster = spread.cluster;
  task.counters = spread.cluster > 1 ? spread.blocks : 1;
  const int64_t size = lay_out(task, substitute, nullptr);
  lay_out(task, substitute, allocate(size));
  const int64_t packers = std::min(ceil_of(size, 16 * kThreads), device.multiprocessors);
  pack_kernel<T><<<static_cast<unsigned>(packers), kThreads, 0, stream>>>(task, substitute);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  if (!shared) return start<T, kThreads, false>(task, spread.blocks, device, stream);
  with_team(search.classes, [&](auto lanes) {
    error = start<T, decltype(lanes)::value, true>(task, spread.blocks, device, stream);
  });
  return error;
}

}  // namespace aeppt::cuda
