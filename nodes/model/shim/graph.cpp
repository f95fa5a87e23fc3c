// CUDA graphs: libtorch's own at::cuda::CUDAGraph, which keeps the memory of what it recorded. It is in the CUDA half of libtorch, which is
// loaded when the program runs and whose headers want CUDA's, so its functions are found by their names.
//
// Every function returns 0, or 1 with the message copied into `error` (`room` bytes).

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "guarded.h"

namespace {

using Pool = std::pair<unsigned long long, unsigned long long>;

// The function of that mangled name in the libraries that are loaded.
template <class F>
F* named(const char* name) {
  void* found = dlsym(RTLD_DEFAULT, name);
  if (found == nullptr) throw std::runtime_error(std::string("this libtorch has no CUDA graphs: there is no ") + name);
  return reinterpret_cast<F*>(found);
}

// An at::cuda::CUDAGraph, whose size the headers do not say here: it has some 150 bytes.
class Graph {
 public:
  Graph() { named<void(void*, bool)>("_ZN2at4cuda9CUDAGraphC1Eb")(storage_, false); }
  ~Graph() { named<void(void*)>("_ZN2at4cuda9CUDAGraphD1Ev")(storage_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // cudaStreamCaptureModeThreadLocal: what other threads do is not recorded, and does not end the recording.
  void begin(Pool pool) { named<void(void*, Pool, int)>("_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode")(storage_, pool, 1); }
  void end() { named<void(void*)>("_ZN2at4cuda9CUDAGraph11capture_endEv")(storage_); }
  void replay() { named<void(void*)>("_ZN2at4cuda9CUDAGraph6replayEv")(storage_); }

 private:
  alignas(64) unsigned char storage_[1024];
};

// The memory that graphs take theirs from, all of them the same: they run one after the other, and nothing of one is read after the next but
// what it keeps. libtorch gives the memory back with the last graph, and takes a new name for it then.
struct Shared {
  std::mutex lock;
  size_t graphs = 0;
  Pool pool{0, 0};

  Pool join() {
    const std::lock_guard<std::mutex> guard(lock);
    if (graphs++ == 0) pool = named<Pool()>("_ZN2at4cuda17graph_pool_handleEv")();
    return pool;
  }
  void leave() {
    const std::lock_guard<std::mutex> guard(lock);
    graphs--;
  }
};

Shared& shared() {
  static Shared one;
  return one;
}

}  // namespace

struct difflow_graph {
  Graph graph;
  const Pool pool = shared().join();
  // The stream that this thread worked on before the recording.
  std::optional<c10::Stream> before;

  ~difflow_graph() { shared().leave(); }
};

extern "C" {

// From here on what this thread gives CUDA device `index` is recorded and not done, until difflow_graph_end. Waits for the device; with
// `give_back`, memory that this process keeps without using it becomes the device's again.
int difflow_graph_begin(int index, int give_back, difflow_graph** out, char* error, size_t room) {
  return guarded(error, room, [&] {
    const c10::impl::VirtualGuardImpl device(at::kCUDA);
    static const c10::Stream recording = device.getStreamFromGlobalPool(c10::Device(at::kCUDA, index));
    device.synchronizeDevice(index);
    if (give_back) at::getDeviceAllocator(at::kCUDA)->emptyCache();
    auto graph = std::make_unique<difflow_graph>();
    graph->before = device.exchangeStream(recording);
    try {
      graph->graph.begin(graph->pool);
    } catch (...) {
      device.exchangeStream(*graph->before);
      throw;
    }
    *out = graph.release();
  });
}

// Ends the recording.
int difflow_graph_end(difflow_graph* graph, char* error, size_t room) {
  return guarded(error, room, [&] {
    const c10::impl::VirtualGuardImpl device(at::kCUDA);
    const c10::Stream before = *graph->before;
    try {
      graph->graph.end();
    } catch (...) {
      device.exchangeStream(before);
      throw;
    }
    device.exchangeStream(before);
  });
}

// Does all that was recorded, on the stream that this thread works on. Does not wait for it.
int difflow_graph_replay(difflow_graph* graph, char* error, size_t room) {
  return guarded(error, room, [&] { graph->graph.replay(); });
}

void difflow_graph_drop(difflow_graph* graph) {
  char message[64];
  (void)guarded(message, sizeof message, [&] { delete graph; });
}

// Bytes of CUDA device `index` that nobody uses, and all that it has.
int difflow_memory_info(int index, uint64_t* unused, uint64_t* all, char* error, size_t room) {
  return guarded(error, room, [&] { std::tie(*unused, *all) = at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(index); });
}

// Bytes that tensors on CUDA device `index` take now.
int difflow_memory_taken(int index, uint64_t* bytes, char* error, size_t room) {
  return guarded(error, room, [&] { *bytes = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(index).allocated_bytes[0].current; });
}
}
