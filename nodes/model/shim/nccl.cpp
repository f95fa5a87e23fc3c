// c10d's NCCL, for ranks that each have a GPU: a library of its own, which is loaded behind libtorch's CUDA half and only where that is.
// scripts/nccl.sh builds it; it needs headers of CUDA and NCCL.
//
// Every function returns 0, or 1 with the message copied into `error` (`room` bytes).

#include <ATen/cuda/CUDAContext.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>

#include "guarded.h"

extern "C" {

// `uuid` gets the 16 bytes that tell CUDA device `index` from all others, on other machines too.
int difflow_nccl_device(int index, unsigned char* uuid, char* error, size_t room) {
  return guarded(error, room, [&] { std::memcpy(uuid, at::cuda::getDeviceProperties(index)->uuid.bytes, 16); });
}

// `out` gets an owned backend whose ranks find each other through `store`, which stays the caller's.
int difflow_nccl_open(c10d::Store* store, int rank, int size, int64_t timeout_ms, c10d::Backend** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    // Where NCCL fails, whoever waits for the exchange is told, and says which rank is lost; c10d would end the process instead.
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2", 0);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto shared = c10::intrusive_ptr<c10d::Store>::unsafe_reclaim_from_nonowning(store);
    c10::intrusive_ptr<c10d::Backend> made = c10::make_intrusive<c10d::ProcessGroupNCCL>(shared, rank, size, options);
    *out = made.release();
  });
}
}
