// CUDA graphs: what a stream is given while it is captured is written down, and done in that order at each launch of the graph.
#include <algorithm>
#include <map>
#include <thread>

#include "tests/simulated_cuda/machine.h"

struct CUgraph_st {
  std::vector<simulated_cuda::Recorded> work;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<simulated_cuda::Recorded>> work;
  simulated_cuda::Allocations reached;
};

namespace simulated_cuda {

namespace {

struct Capture {
  std::thread::id owner;
  bool spoiled = false;
  std::vector<Recorded> work;
};
// Guarded by the machine's lock. Both are small: a stage captures one stream at a time.
std::map<cudaStream_t, Capture>& captures() {
  static auto& all = *new std::map<cudaStream_t, Capture>;
  return all;
}

}  // namespace

cudaError_t refuse_in_capture(cudaStream_t stream, const char* call) {
  const Lock lock;
  const auto found = captures().find(stream);
  if (found == captures().end()) return cudaSuccess;
  found->second.spoiled = true;
  say(std::string(call) + " cannot be captured");
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t refuse_in_any_capture(const char* call) {
  const Lock lock;
  for (auto& [stream, capture] : captures()) {
    if (capture.owner != std::this_thread::get_id()) continue;
    capture.spoiled = true;
    say(std::string(call) + " is not allowed in a thread that captures a stream");
    return cudaErrorStreamCaptureUnsupported;
  }
  return cudaSuccess;
}

bool captured(cudaStream_t stream, Recorded recorded, cudaError_t* status) {
  const Lock lock;
  const auto found = captures().find(stream);
  if (found == captures().end()) return false;
  if (found->second.spoiled) *status = cudaErrorStreamCaptureInvalidated;
  else if (recorded.work) found->second.work.push_back(std::move(recorded));
  return true;
}

}  // namespace simulated_cuda

using namespace simulated_cuda;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (!is_stream(stream)) return error(cudaErrorInvalidResourceHandle, "cudaStreamBeginCapture: no such stream");
  if (mode != cudaStreamCaptureModeThreadLocal) return error(cudaErrorInvalidValue, "cudaStreamBeginCapture: only the thread-local mode is simulated");
  const Lock lock;
  const auto [place, first] = captures().try_emplace(stream);
  if (!first) {
    place->second.spoiled = true;
    return error(cudaErrorIllegalState);
  }
  place->second.owner = std::this_thread::get_id();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  std::vector<Recorded> work;
  {
    const Lock lock;
    const auto found = captures().find(stream);
    if (found == captures().end()) return error(cudaErrorIllegalState);
    if (found->second.owner != std::this_thread::get_id()) {
      found->second.spoiled = true;
      return error(cudaErrorStreamCaptureWrongThread);
    }
    const bool spoiled = found->second.spoiled;
    work = std::move(found->second.work);
    captures().erase(found);
    if (spoiled) return error(cudaErrorStreamCaptureInvalidated);
  }
  *graph = new CUgraph_st{std::move(work)};
  born("graphs", *graph);
  return broken();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long flags) {
  *ready = nullptr;
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (!lives("graphs", graph) || flags != 0) return error(cudaErrorInvalidValue, "cudaGraphInstantiate: no such graph");
  *ready = new CUgraphExec_st{std::make_shared<const std::vector<Recorded>>(graph->work), {}};
  for (const Recorded& step : graph->work)
    for (const auto& a : step.reached)
      if (std::find((*ready)->reached.begin(), (*ready)->reached.end(), a) == (*ready)->reached.end()) (*ready)->reached.push_back(a);
  born("executable graphs", *ready);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (!lives("executable graphs", graph)) return error(cudaErrorInvalidValue, "cudaGraphLaunch: no such graph");
  if (const cudaError_t refused = refuse_in_capture(stream, "cudaGraphLaunch"); refused != cudaSuccess) return error(refused);
  return submit(stream, graph->reached, [work = graph->work] {
    for (const Recorded& step : *work) step.work();
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  if (!died("executable graphs", graph)) return error(cudaErrorInvalidValue, "cudaGraphExecDestroy: no such graph");
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (!died("graphs", graph)) return error(cudaErrorInvalidValue, "cudaGraphDestroy: no such graph");
  delete graph;
  return cudaSuccess;
}
