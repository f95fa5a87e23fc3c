// Collectives between processes: libtorch's own c10d over Gloo, which tch does not bind.
//
// Every function returns 0, or 1 with the message copied into `error` (`room` bytes). Pointers to at::Tensor are tch's C_tensor pointers.
// Nothing here adds: libtorch only moves bytes, so the order of additions is Rust's.

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "guarded.h"

using at::Tensor;

struct difflow_group {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> backend;
};

struct difflow_started {
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
    c10::intrusive_ptr<c10d::Backend> backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, gloo);
    *out = new difflow_group{store, backend};
  });
}

void difflow_group_close(difflow_group* group) { delete group; }

// `out` gets the `in` of every rank, one behind the other.
int difflow_group_all_gather(difflow_group* group, Tensor* out, Tensor* in, char* error, size_t room) {
  return guarded(error, room, [&] { group->backend->_allgather_base(*out, *in)->wait(); });
}

// Every rank gets an equal part of the `in` of every rank.
int difflow_group_all_to_all(difflow_group* group, Tensor* out, Tensor* in, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<int64_t> even;
    group->backend->alltoall_base(*out, *in, even, even)->wait();
  });
}

// Everybody's tensor becomes that of rank `root`.
int difflow_group_broadcast(difflow_group* group, Tensor* tensor, int root, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group->backend->broadcast(tensors, options)->wait();
  });
}

// As difflow_group_broadcast, without waiting for it: `out` is what to wait for. The tensor lives at least as long as the exchange.
int difflow_group_start_broadcast(difflow_group* group, Tensor* tensor, int root, difflow_started** out, char* error,
                                  size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = new difflow_started{group->backend->broadcast(tensors, options)};
  });
}

int difflow_started_wait(difflow_started* started, char* error, size_t room) {
  return guarded(error, room, [&] { started->work->wait(); });
}

void difflow_started_drop(difflow_started* started) { delete started; }

// Gives a tensor to rank `to`.
int difflow_group_send(difflow_group* group, Tensor* tensor, int to, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    group->backend->send(tensors, to, 0)->wait();
  });
}

// The tensor becomes what rank `from` sends.
int difflow_group_receive(difflow_group* group, Tensor* tensor, int from, char* error, size_t room) {
  return guarded(error, room, [&] {
    std::vector<Tensor> tensors{*tensor};
    group->backend->recv(tensors, from, 0)->wait();
  });
}
}
