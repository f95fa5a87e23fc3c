// What a step on a device needs and tch does not bind: copies that nothing waits for, and operations on lists of tensors, one kernel
// launch for many parameters.
//
// Every function returns 0, or 1 with the message copied into `error` (`room` bytes). Lists of tensors are arrays of tch's C_tensor
// pointers.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>
#include <memory>
#include <optional>

#include "guarded.h"

namespace {

using at::Tensor;

std::vector<Tensor> list(Tensor* const* tensors, size_t count) {
  std::vector<Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; i++) out.push_back(*tensors[i]);
  return out;
}

// A copy in host memory that may still be under way.
struct Later {
  Tensor host;
  std::optional<c10::Event> done;
};

}  // namespace

extern "C" {

// `out` gets an owned copy of a host tensor on CUDA device `index`. Nothing waits for it: it goes through pinned memory.
int difflow_upload(Tensor* host, int index, Tensor** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    *out = new Tensor(host->pin_memory().to(at::Device(at::kCUDA, index), /*non_blocking=*/true));
  });
}

// Starts a copy to host memory; `out` is owned by the caller until difflow_later_drop.
int difflow_later(Tensor* from, Later** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    const Tensor source = from->detach().contiguous();
    auto later = std::make_unique<Later>();
    if (source.is_cpu()) {
      later->host = source.clone();
    } else {
      later->host = at::empty(source.sizes(), source.options().device(at::kCPU).pinned_memory(true));
      later->host.copy_(source, /*non_blocking=*/true);
      later->done.emplace(source.device().type());
      later->done->record(c10::impl::VirtualGuardImpl(source.device().type()).getStream(source.device()));
    }
    *out = later.release();
  });
}

// Waits for the copy; `out` gets an owned tensor of it.
int difflow_later_read(Later* later, Tensor** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    if (later->done) later->done->synchronize();
    *out = new Tensor(later->host);
  });
}

void difflow_later_drop(Later* later) { delete later; }

// `stream` gets the driver's handle of the stream that CUDA device `index` works on.
int difflow_stream(int index, void** stream, char* error, size_t room) {
  return guarded(error, room, [&] {
    *stream = c10::impl::VirtualGuardImpl(at::kCUDA).getStream(at::Device(at::kCUDA, index)).native_handle();
  });
}

// How CUDA computes in this process: TF32 in fp32 products, and only kernels that give the same bits each time. Before it is first used.
int difflow_device_settings(int tf32, int deterministic, double memory_fraction, char* error, size_t room) {
  return guarded(error, room, [&] {
    auto& context = at::globalContext();
    context.setFloat32MatmulPrecision(tf32 ? "high" : "highest");
    if (deterministic) {
      // cuBLAS splits sums in a fixed way only with a workspace of its own.
      setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
      context.setDeterministicAlgorithms(true, false);
      context.setDeterministicCuDNN(true);
      context.setBenchmarkCuDNN(false);
    }
    if (memory_fraction < 1) {
      c10::CachingAllocator::setAllocatorSettings("per_process_memory_fraction:" + std::to_string(memory_fraction));
    }
  });
}

// `bytes` gets the most memory that tensors on CUDA device `index` have taken so far.
int difflow_peak_memory(int index, uint64_t* bytes, char* error, size_t room) {
  return guarded(error, room, [&] {
    const auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(index);
    *bytes = stats.allocated_bytes[0].peak;
  });
}

// Attention inside documents that lie one after the other, without a bias: q [T, H, d], k and v [T, Hkv, d]; `bounds` are the places where
// documents begin and the last one ends, 32-bit integers on the device; `longest` the tokens of the longest. Each of the five results is owned.
int difflow_documents(Tensor* q, Tensor* k, Tensor* v, Tensor* bounds, int64_t longest, int causal, Tensor** out, Tensor** sums,
                      Tensor** seed, Tensor** offset, char* error, size_t room) {
  return guarded(error, room, [&] {
    at::NoGradGuard off;
    auto [result, logsumexp, state, unused, mask] =
        at::_flash_attention_forward(*q, *k, *v, *bounds, *bounds, longest, longest, 0.0, causal != 0, false);
    *out = new Tensor(result);
    *sums = new Tensor(logsumexp);
    *seed = new Tensor(state);
    *offset = new Tensor(unused);
  });
}

// Its gradients of q, k and v.
int difflow_documents_slope(Tensor* gradient, Tensor* q, Tensor* k, Tensor* v, Tensor* out, Tensor* sums, Tensor* bounds,
                            int64_t longest, int causal, Tensor* seed, Tensor* offset, Tensor** of_q, Tensor** of_k, Tensor** of_v,
                            char* error, size_t room) {
  return guarded(error, room, [&] {
    at::NoGradGuard off;
    auto [dq, dk, dv] = at::_flash_attention_backward(*gradient, *q, *k, *v, *out, *sums, *bounds, *bounds, longest, longest, 0.0,
                                                      causal != 0, *seed, *offset);
    *of_q = new Tensor(dq);
    *of_k = new Tensor(dk);
    *of_v = new Tensor(dv);
  });
}

// `out` gets the norm over all tensors, in double precision, on their device. It is added up in that, too: parts of the tensors, which
// several processes have, give the same but for its last bits.
int difflow_norm(Tensor* const* tensors, size_t count, Tensor** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    *out = new Tensor(at::stack(at::_foreach_norm(list(tensors, count), 2, at::kDouble)).norm());
  });
}

// to[i] ← from[i], in the type of the former.
int difflow_copy_all(Tensor* const* to, Tensor* const* from, size_t count, char* error, size_t room) {
  return guarded(error, room, [&] {
    at::NoGradGuard off;
    at::_foreach_copy_(list(to, count), list(from, count));
  });
}

// to[i] ← to[i] + weight·(from[i] − to[i]).
int difflow_lerp_all(Tensor* const* to, Tensor* const* from, size_t count, Tensor* weight, char* error, size_t room) {
  return guarded(error, room, [&] {
    at::NoGradGuard off;
    auto target = list(to, count);
    const auto source = list(from, count);
    for (size_t i = 0; i < count; i++) target[i].lerp_(source[i], *weight);
  });
}

// One update by AdamW of fp32 tensors. The gradients are divided by `divisor` in place; nothing is changed where `skip` is 1. `step` is the
// number of this update; all three are fp32 numbers on the tensors' device, and so is `lr_there`, which stands for `lr` where it is not null.
int difflow_adamw(Tensor* const* weights, Tensor* const* gradients, Tensor* const* first, Tensor* const* second, size_t count,
                  Tensor* step, Tensor* divisor, Tensor* skip, Tensor* lr_there, double lr, double beta1, double beta2, double decay, double eps,
                  char* error, size_t room) {
  return guarded(error, room, [&] {
    at::NoGradGuard off;
    const std::vector<Tensor> steps(count, *step);
    const auto update = [&](const auto& lr) {
      at::_fused_adamw_(list(weights, count), list(gradients, count), list(first, count), list(second, count), {}, steps, lr, beta1,
                        beta2, decay, eps, /*amsgrad=*/false, /*maximize=*/false, *divisor, *skip);
    };
    lr_there == nullptr ? update(lr) : update(*lr_there);
  });
}
}
