// What tch does not bind: a gradient computed by Rust, libtorch's own threads for a Rust kernel, and looking at a gradient and forgetting it.
//
// Every function returns 0, or 1 with the message copied into `error` (`room` bytes). Pointers to at::Tensor are tch's
// C_tensor pointers.

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "guarded.h"

namespace {

using at::Tensor;

// Runs once. Gets the gradients of the outputs (borrowed, null for none) and puts an owned tensor, or null for none, in each result; or
// returns 1 with the message in `error`.
typedef int (*Backward)(void* state, Tensor* const* gradients, Tensor** results, char* error, size_t room);
typedef void (*Drop)(void* state);

struct RustNode : torch::autograd::Node {
  void* state;
  Backward backward;
  Drop drop;
  size_t inputs;

  ~RustNode() override { drop(state); }

  std::string name() const override { return "difflow"; }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    torch::autograd::variable_list out(inputs);
    std::vector<Tensor*> raw(inputs, nullptr), given;
    bool any = false;
    for (Tensor& gradient : gradients) {
      any |= gradient.defined();
      given.push_back(gradient.defined() ? &gradient : nullptr);
    }
    if (!any) return out;
    char error[512] = "";
    const int failed = backward(state, given.data(), raw.data(), error, sizeof(error));
    for (size_t i = 0; i < inputs; i++) {
      if (raw[i] == nullptr) continue;
      out[i] = std::move(*raw[i]);
      delete raw[i];
    }
    TORCH_CHECK(!failed, "in the backward pass: ", error);
    return out;
  }
};

// Runs after a backward pass has added to a gradient.
typedef int (*Look)(void* state, char* error, size_t room);

struct RustHook : torch::autograd::PostAccumulateGradHook {
  void* state;
  Look look;
  Drop drop;

  RustHook(void* state, Look look, Drop drop) : state(state), look(look), drop(drop) {}
  ~RustHook() override { drop(state); }

  void operator()(const Tensor&) override {
    char error[512] = "";
    const int failed = look(state, error, sizeof(error));
    TORCH_CHECK(!failed, "in the backward pass: ", error);
  }
};

}  // namespace

extern "C" {

// Makes `outputs` the results of a differentiable function of `inputs`. Takes `state` whatever happens: it is dropped at once
// when no gradient is wanted.
int difflow_attach(Tensor* const* outputs, size_t results, Tensor* const* inputs, size_t count, void* state, Backward backward,
                   Drop drop, char* error, size_t room) {
  return guarded(error, room, [&] {
    auto node = std::make_shared<RustNode>();
    node->state = state;
    node->backward = backward;
    node->drop = drop;
    node->inputs = count;
    bool wanted = false;
    torch::autograd::edge_list edges;
    for (size_t i = 0; i < count; i++) {
      wanted |= inputs[i]->requires_grad();
      edges.push_back(torch::autograd::impl::gradient_edge(*inputs[i]));
    }
    if (!wanted || !at::GradMode::is_enabled()) return;
    node->set_next_edges(std::move(edges));
    for (size_t i = 0; i < results; i++) torch::autograd::set_history(*outputs[i], node);
  });
}

// Calls `look` after each backward pass that has added to the tensor's gradient. Takes `state` whatever happens.
int difflow_after_gradient(Tensor* tensor, void* state, Look look, Drop drop, char* error, size_t room) {
  return guarded(error, room, [&] {
    torch::autograd::impl::set_post_acc_grad_hooks(*tensor, std::make_unique<RustHook>(state, look, drop));
  });
}

// The tensor's gradient becomes undefined, so that the next one is taken over instead of added to zeros.
int difflow_forget_gradient(Tensor* tensor, char* error, size_t room) {
  return guarded(error, room, [&] { tensor->mutable_grad() = Tensor(); });
}

// The tensor's gradient becomes `gradient`.
int difflow_set_gradient(Tensor* tensor, Tensor* gradient, char* error, size_t room) {
  return guarded(error, room, [&] { tensor->mutable_grad() = *gradient; });
}

// Gives the storage of a tensor in host memory, of which the tensor is all, memory with anything in it, or takes it away: the tensor and
// its views keep their sizes, and must not be read then.
int difflow_set_memory(Tensor* tensor, int there, char* error, size_t room) {
  return guarded(error, room, [&] {
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    const size_t bytes = there ? tensor->nbytes() : 0;
    at::DataPtr data = there ? c10::GetAllocator(at::kCPU)->allocate(bytes) : at::DataPtr(nullptr, at::Device(at::kCPU));
    storage->set_data_ptr_noswap(std::move(data));
    storage->set_nbytes(bytes);
  });
}

// Torch's profiler: the operations of this thread and, where there is a GPU, its kernels; `path` gets a trace.
int difflow_profile_start(char* error, size_t room) {
  return guarded(error, room, [&] {
    using namespace torch::profiler::impl;
    const ProfilerConfig config(ProfilerState::KINETO);
    std::set<ActivityType> activities{ActivityType::CPU};
    if (at::hasCUDA()) activities.insert(ActivityType::CUDA);
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
  });
}

int difflow_profile_stop(const char* path, char* error, size_t room) {
  return guarded(error, room, [&] { torch::autograd::profiler::disableProfiler()->save(path); });
}

// Calls body(state, begin, end) for parts of 0..count on libtorch's threads. The parts depend on the number of threads only.
int difflow_parallel(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* state, char* error,
                     size_t room) {
  return guarded(error, room, [&] {
    at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(state, begin, end); });
  });
}
}
