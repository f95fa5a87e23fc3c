// Collectives between processes: libtorch's own c10d, which tch does not bind. Gloo moves what is in host memory, and NCCL, where there is
// one (nccl.cpp), what is on a device.
//
// Every function returns 0, or 1 with the message copied into `error` (`room` bytes). Pointers to at::Tensor are tch's C_tensor pointers.
// Nothing but all_reduce adds: libtorch only moves bytes, so the order of additions is Rust's.

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <stdexcept>
#include <thread>

#include "guarded.h"

using at::Tensor;

using Backend = c10::intrusive_ptr<c10d::Backend>;

struct difflow_group {
  int rank;
  int size;
  std::chrono::milliseconds timeout;
  c10::intrusive_ptr<c10d::Store> store;
  // Of tensors in host memory.
  Backend host;
  // Of tensors on a device; null where there is none.
  Backend device;
};

namespace {

const Backend& of(const difflow_group* group, const Tensor& tensor) {
  if (tensor.is_cpu()) return group->host;
  if (!group->device) throw std::runtime_error("ranks without NCCL exchange what is in host memory only");
  return group->device;
}

// Waits until an exchange is done. For NCCL's, c10d would only make the device wait, for as long as it takes.
void done(const difflow_group* group, const Tensor& tensor, const c10::intrusive_ptr<c10d::Work>& work) {
  if (!tensor.is_cpu()) {
    const auto begin = std::chrono::steady_clock::now();
    while (!work->isCompleted()) {
      const auto waited = std::chrono::steady_clock::now() - begin;
      if (waited > group->timeout) {
        // What is enqueued would wait for ever, and the process with it.
        group->device->abort();
        throw std::runtime_error("NCCL: no answer in time");
      }
      // Small exchanges take some ten microseconds.
      if (waited > std::chrono::milliseconds(1)) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
  work->wait();
}

}  // namespace

// An exchange that goes on; the tensor is one of it.
struct difflow_started {
  const difflow_group* group;
  Tensor tensor;
  c10::intrusive_ptr<c10d::Work> work;
};

extern "C" {

// Waits until all ranks are there. Rank 0 gives a listening socket in `listener`, which is taken over, the others -1; all of them give its
// address. `own` is the address at which this process is reached by the others.
int difflow_group_open(const char* host, uint16_t port, int listener, const char* own, int rank, int size, int64_t join_ms,
                       int64_t timeout_ms, difflow_group** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = rank == 0;
    options.numWorkers = size;
    options.waitWorkers = true;
    options.timeout = std::chrono::milliseconds(join_ms);
    if (listener >= 0) options.masterListenFd = listener;
    c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::TCPStore>(host, options);
    store->setTimeout(std::chrono::milliseconds(join_ms));
    auto gloo = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(own));
    // The calls of a rank come one after the other.
    gloo->threads = 1;
    Backend host = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, gloo);
    *out = new difflow_group{rank, size, std::chrono::milliseconds(timeout_ms), store, host, nullptr};
  });
}

// From now on, what is on CUDA device `index` is exchanged by the backend that `open` makes: difflow_nccl_open. All ranks come here.
int difflow_group_add_device(difflow_group* group, int index,
                             int (*open)(c10d::Store*, int, int, int64_t, c10d::Backend**, char*, size_t), char* error, size_t room) {
  return guarded(error, room, [&] {
    char problem[512] = "";
    auto store = c10::make_intrusive<c10d::PrefixStore>("device", group->store);
    c10d::Backend* made = nullptr;
    // c10d waits longer than `done`, which says what is wrong.
    const int64_t timeout_ms = group->timeout.count() + 60000;
    if (open(store.get(), group->rank, group->size, timeout_ms, &made, problem, sizeof problem)) throw std::runtime_error(problem);
    Backend device = Backend::reclaim(made);
    device->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)));
    group->device = device;
  });
}

void difflow_group_close(difflow_group* group) {
  char ignored[1];
  // Without it, NCCL complains, and may wait for ranks that are gone.
  if (group->device) guarded(ignored, sizeof ignored, [&] { group->device->shutdown(); });
  delete group;
}

// `out` gets the `in` of every rank, one behind the other.
int difflow_group_all_gather(difflow_group* group, Tensor* out, Tensor* in, char* error, size_t room) {
  return guarded(error, room, [&] { done(group, *in, of(group, *in)->_allgather_base(*out, *in)); });
}

// Every rank gets an equal part of the `in` of every rank.
int difflow_group_all_to_all(difflow_group* group, Tensor* out, Tensor* in, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<int64_t> even;
    done(group, *in, of(group, *in)->alltoall_base(*out, *in, even, even));
  });
}

// As difflow_group_all_to_all, without waiting for it: `out` of the exchange is what to wait for. The tensors live at least as long as that.
int difflow_group_start_all_to_all(difflow_group* group, Tensor* into, Tensor* in, difflow_started** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<int64_t> even;
    *out = new difflow_started{group, *in, of(group, *in)->alltoall_base(*into, *in, even, even)};
  });
}

// Everybody's tensor becomes the sum of all, added up in an order that depends on how many there are.
int difflow_group_all_reduce(difflow_group* group, Tensor* tensor, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    done(group, *tensor, of(group, *tensor)->allreduce(tensors, c10d::AllreduceOptions()));
  });
}

// Everybody's tensor becomes that of rank `root`.
int difflow_group_broadcast(difflow_group* group, Tensor* tensor, int root, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    done(group, *tensor, of(group, *tensor)->broadcast(tensors, options));
  });
}

// As difflow_group_broadcast, without waiting for it: `out` is what to wait for. The tensor lives at least as long as the exchange.
int difflow_group_start_broadcast(difflow_group* group, Tensor* tensor, int root, difflow_started** out, char* error,
                                  size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = new difflow_started{group, *tensor, of(group, *tensor)->broadcast(tensors, options)};
  });
}

int difflow_started_wait(difflow_started* started, char* error, size_t room) {
  return guarded(error, room, [&] { done(started->group, started->tensor, started->work); });
}

void difflow_started_drop(difflow_started* started) { delete started; }

// Gives a tensor to rank `to`.
int difflow_group_send(difflow_group* group, Tensor* tensor, int to, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    done(group, *tensor, of(group, *tensor)->send(tensors, to, 0));
  });
}

// The tensor becomes what rank `from` sends.
int difflow_group_receive(difflow_group* group, Tensor* tensor, int from, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    done(group, *tensor, of(group, *tensor)->recv(tensors, from, 0));
  });
}
}
