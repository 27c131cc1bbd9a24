// The simulated CUDA machine: what it does, what it refuses, and the mistakes that it finds.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "engine/convolution/convolution.h"
#include "engine/device.h"
#include "engine/memory.h"
#include "engine/random.h"
#include "tests/simulated_cuda/machine.h"

using namespace pipecast;

namespace {

struct Run {
  bool found;
  std::string said;
};

// tests/simulated_cuda/planted.cc
Run planted(const std::string& arguments, int seed) {
  const std::string command = "SIMULATED_CUDA_SEED=" + std::to_string(seed) + " " PLANTED " " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe);
  Run run{false, ""};
  std::array<char, 512> part;
  while (std::fgets(part.data(), int(part.size()), pipe)) run.said += part.data();
  const int status = pclose(pipe);
  run.found = !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return run;
}

struct Mistake {
  const char *name, *said;
  bool has_right = true;  // there is the same without the mistake
};

}  // namespace

TEST_CASE("mistakes are found, whatever the order, and said") {
  const std::vector<Mistake> mistakes = {
      {"host-touches-the-device", "the host touched address", false},
      {"reads-what-was-never-written", "a wrong result", false},
      {"waits-in-a-capture", "operation not permitted when stream is capturing"},
      {"takes-memory-in-a-capture", "cudaMalloc is not allowed in a thread that captures a stream", false},
      {"pageable-memory-in-a-capture", "cudaMemcpyAsync with pageable memory cannot be captured", false},
      {"replays-into-freed-memory", "into freed device memory"},
      {"freed-workspace", "the workspace is not device memory, or it is freed"},
      {"wrong-leading-dimension", "the leading dimension of A is 7 and a column has 8 elements"},
      {"matrix-beyond-its-memory", "do not lie in device memory"},
      {"misaligned-kernel", "misaligned address"},
      {"kernel-beyond-its-memory", "an illegal memory access was encountered"},
      {"kernel-on-freed-memory", "into freed device memory", false},
      {"copy-beyond-its-memory", "are not those of an allocation", false},
      {"freed-twice", "or is freed already", false},
      {"never-given-back", "at exit these were not given back: 1 streams"},
      {"stream-that-is-gone", "no such stream", false},
      {"small-workspace", "CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT"},
      {"wrong-layout", "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT"},
  };
  for (const Mistake& mistake : mistakes)
    for (int seed : {0, 1, 2}) {
      CAPTURE(mistake.name);
      CAPTURE(seed);
      const Run run = planted(mistake.name, seed);
      CHECK(run.found);
      CHECK(doctest::String(run.said.c_str()) == doctest::Contains(mistake.said));
      if (mistake.has_right) CHECK(planted(mistake.name + std::string(" right"), seed).said == "");
    }
}

TEST_CASE("mistakes of order are found in one of 20 orders, and without them all 20 are right") {
  for (const char* mistake : {"read-before-written", "written-before-read", "host-writes-what-is-copied", "host-reads-what-is-not-there"}) {
    CAPTURE(mistake);
    int found = 0;
    for (int seed = 1; seed <= 20; ++seed) {
      found += planted(mistake, seed).found;
      const Run run = planted(mistake + std::string(" right"), seed);
      CAPTURE(run.said);
      CHECK_FALSE(run.found);
    }
    CHECK(found > 0);
  }
}

TEST_CASE("cuDNN's convolutions are the plain ones; in tf32 they are near them, and others") {
  const auto values = [](int64_t n, uint64_t seed) {
    std::vector<float> v(static_cast<size_t>(n));
    for (size_t i = 0; i < v.size(); ++i) v[i] = Random{seed, purpose("test"), 0}.normal(i);
    return v;
  };
  // What a plan makes of the same operands: y, dx, dw.
  const auto all = [&](Device d, ConvolutionPlan& plan, const ConvolutionShape& s) {
    const std::vector<float> x = values(s.in.count(), 1), w = values(s.weight_count(), 2), dy = values(s.out().count(), 3);
    const Memory mx(d, s.in.count()), mw(d, s.weight_count()), mdy(d, s.out().count()), y(d, s.out().count()), dx(d, s.in.count()),
        dw(d, s.weight_count()), workspace(d, plan.workspace());
    for (auto [to, from] : {std::pair(&mx, &x), {&mw, &w}, {&mdy, &dy}}) copy(d, to->data(), from->data(), from->size() * sizeof(float));
    plan.forward(d, mx.data(), mw.data(), y.data(), workspace.data());
    plan.backward_input(d, mdy.data(), mw.data(), dx.data(), false, workspace.data());
    plan.backward_weight(d, mx.data(), mdy.data(), dw.data(), workspace.data());
    std::vector<float> result;
    for (const Memory* from : {&y, &dx, &dw}) {
      const size_t before = result.size();
      result.resize(before + size_t(from->size()));
      copy(d, result.data() + before, from->data(), size_t(from->size()) * sizeof(float));
      synchronize(d);
    }
    return result;
  };
  for (const char* math : {"fp32", "tf32"}) {
    const DeviceOwner owner("cuda", math);
    for (const ConvolutionShape& s : {ConvolutionShape{{2, 7, 5, 6}, 8, 3, 3, 1, 1, 1}, ConvolutionShape{{1, 9, 8, 4}, 6, 3, 3, 2, 2, 2, 2},
                                      ConvolutionShape{{2, 6, 6, 8}, 8, 3, 3, 1, 1, 1, 1, 4}}) {
      CAPTURE(math);
      CAPTURE(to_string(s));
      const auto plan = plan_convolution_cudnn(owner.get(), s);
      REQUIRE(plan);
      CHECK(plan->implementation() == "cudnn:0, cudnn:1, cudnn:1");
      const std::vector<float> got = all(owner.get(), *plan, s), expected = all(Device{}, *plan_convolution_plain(Device{}, s), s);
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, double(std::abs(got[i] - expected[i])));
      if (std::string(math) == "fp32") CHECK(worst < 1e-4);
      else CHECK((worst > 1e-4 && worst < 0.1));
    }
  }
}

TEST_CASE("errors are of the thread until they are asked for") {
  CHECK(cudaGetLastError() == cudaSuccess);
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, size_t(1) << 50) == cudaErrorMemoryAllocation);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("a capture does nothing, a graph does it all, as often as it is launched") {
  const DeviceOwner owner("cuda");
  const cudaStream_t stream = owner.get().stream;
  const Memory a(owner.get(), 4), b(owner.get(), 4);
  std::vector<float> values(4, 3.f);
  copy(owner.get(), a.data(), values.data(), 16);

  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaMemcpyAsync(b.data(), a.data(), 16, cudaMemcpyDefault, stream) == cudaSuccess);
  CHECK(cudaMemsetAsync(a.data(), 0, 16, stream) == cudaSuccess);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  const auto read = [&](const Memory& from) {
    copy(owner.get(), values.data(), from.data(), 16);
    return values[0];
  };
  CHECK(read(a) == 3);
  CHECK(read(b) == 0);
  cudaGraphExec_t ready = nullptr;
  CHECK(cudaGraphInstantiate(&ready, graph, 0) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaGraphLaunch(ready, stream) == cudaSuccess);
  CHECK(read(a) == 0);
  CHECK(read(b) == 3);
  CHECK(cudaGraphLaunch(ready, stream) == cudaSuccess);
  CHECK(read(b) == 0);
  CHECK(cudaGraphExecDestroy(ready) == cudaSuccess);
}

TEST_CASE("a refused call spoils the capture, and the stream works on") {
  const DeviceOwner owner("cuda"), other("cuda");
  const cudaStream_t stream = owner.get().stream;
  const Memory a(owner.get(), 4);
  cudaEvent_t event = nullptr;
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
  CHECK(cudaEventRecord(event, other.get().stream) == cudaSuccess);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(stream, event, 0) == cudaErrorStreamCaptureIsolation);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaMemsetAsync(a.data(), 0, 16, stream) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(graph == nullptr);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);

  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaEventRecord(event, stream) == cudaSuccess);
  CHECK(cudaEventSynchronize(event) == cudaErrorCapturedEvent);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaEventDestroy(event) == cudaSuccess);
  cudaGetLastError();
}
