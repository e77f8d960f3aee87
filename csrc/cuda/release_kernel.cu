// The kernel of the ranking release, and its launch.
#include <algorithm>
#include <cstdint>

#define AEPPT_VARIANT cuda
#include "block_release.h"
#include "release_launch.h"

namespace aeppt::cuda {
namespace {

// Blocks that share a multiprocessor, whose registers they divide.
constexpr int kReleaseBlocks = 4;

// What the kernel is given.
template <typename T>
struct ReleaseTask {
  Release<T> release;
  ReleaseLayout<T> layout;
  char* workspace;  // [blocks][layout.bytes]; null where the rows lie in shared memory
};

template <typename T, int kLanes, bool kShared>
__global__ void __launch_bounds__(kThreads, kReleaseBlocks)
    release_kernel(const __grid_constant__ ReleaseTask<T> task) {
  using RowsBlock = Block<kLanes>;
  extern __shared__ uint4 shared[];
  char* const memory = kShared ? reinterpret_cast<char*>(shared)
                               : task.workspace + int64_t(blockIdx.x) * task.layout.bytes;
  BlockRelease<T, RowsBlock>(task.release, task.layout, memory)
      .run(int64_t(blockIdx.x) * RowsBlock::kTeams, task.release.rows,
           int64_t(gridDim.x) * RowsBlock::kTeams);
}

template <typename T, int kLanes, bool kShared>
cudaError_t start(const ReleaseTask<T>& task, int64_t blocks, const Device& device,
                  cudaStream_t stream) {
  const auto kernel = release_kernel<T, kLanes, kShared>;
  const int64_t bytes = kShared ? task.layout.bytes : 0;
  const cudaError_t error = allow_all_memory(kernel, device, kScratchBytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t release_rows(const Release<T>& release, const Device& device, const Allocate& allocate,
                         cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_release_team(release.classes, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value, kTeams = kThreads / kLanes;
    ReleaseTask<T> task{release, ReleaseLayout<T>::of(release.classes, kTeams), nullptr};
    const int64_t most = kReleaseBlocks * device.multiprocessors;
    const int64_t blocks = std::min((release.rows + kTeams - 1) / kTeams, most);
    const int64_t room = device.memory_of_block - kScratchBytes;
    if (task.layout.bytes <= room) {
      error = start<T, kLanes, true>(task, blocks, device, stream);
    } else if constexpr (kLanes == kThreads) {  // the others' rows are short
      task.workspace = allocate(blocks * task.layout.bytes);
      error = start<T, kLanes, false>(task, blocks, device, stream);
    } else {
      error = cudaErrorInvalidConfiguration;
    }
  });
  return error;
}

template cudaError_t release_rows(const Release<float>&, const Device&, const Allocate&,
                                  cudaStream_t);
template cudaError_t release_rows(const Release<double>&, const Device&, const Allocate&,
                                  cudaStream_t);

}  // namespace aeppt::cuda
