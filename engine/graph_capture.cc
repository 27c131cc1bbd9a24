#include "engine/graph_capture.h"

#ifdef PIPECAST_CUDA
#include <vector>
#endif

namespace pipecast {

#ifdef PIPECAST_CUDA
namespace {

class GraphRecorder : public Recorder {
 public:
  explicit GraphRecorder(Device device) : device_(device) {}
  ~GraphRecorder() override {
    for (cudaGraphExec_t graph : graphs_) cudaGraphExecDestroy(graph);
  }

  // Other threads, whose streams are not recorded, may go on as they like.
  void begin() override { check(cudaStreamBeginCapture(device_.stream, cudaStreamCaptureModeThreadLocal)); }

  size_t end() override {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(device_.stream, &graph));
    cudaGraphExec_t ready = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
    cudaGraphDestroy(graph);
    check(status);
    graphs_.push_back(ready);
    return graphs_.size() - 1;
  }

  void abandon() noexcept override {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(device_.stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // the failure of the work is the one to report
  }

  void replay(size_t number) override { check(cudaGraphLaunch(graphs_[number], device_.stream)); }

 private:
  Device device_;
  std::vector<cudaGraphExec_t> graphs_;
};

}  // namespace
#endif

std::unique_ptr<Recorder> make_recorder([[maybe_unused]] Device device) {
#ifdef PIPECAST_CUDA
  if (device.gpu) return std::make_unique<GraphRecorder>(device);
#endif
  return nullptr;
}

}  // namespace pipecast
