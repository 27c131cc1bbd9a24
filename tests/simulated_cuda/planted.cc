// Mistakes that the simulated CUDA machine must find, one a run, and beside some of them the same without the mistake.
//
//   planted NAME [right]      exit code 0: nothing was found
//
// What the machine does not report itself shows as a wrong result, in an order of the streams that a seed (SIMULATED_CUDA_SEED) draws.
#include <cublas_v2.h>
#include <cudnn.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "engine/gemm.h"
#include "engine/graph_capture.h"
#include "engine/memory.h"
#include "engine/round.h"

using namespace pipecast;

namespace {

constexpr int64_t n = 1024;
constexpr size_t bytes = n * sizeof(float);

bool right = false;  // without the mistake

void require(const float* got, float expected) {
  for (int64_t i = 0; i < n; ++i)
    if (!(got[i] == expected)) throw Error("a wrong result: " + std::to_string(got[i]) + " for " + std::to_string(expected));
}

std::vector<float> read(Device d, const Memory& memory) {
  std::vector<float> values(n);
  copy(d, values.data(), memory.data(), bytes);
  return values;
}

void write(Device d, const Memory& memory, float value) {
  const std::vector<float> values(n, value);
  copy(d, memory.data(), values.data(), bytes);
}

// Two streams: the second reads what the first writes.
void read_before_written() {
  const DeviceOwner writer("cuda"), reader("cuda");
  const Memory from(writer.get(), n), to(reader.get(), n);
  Event written(writer.get());
  write(writer.get(), from, 1);
  written.set(writer.get());
  if (right) written.hold_back(reader.get());
  copy(reader.get(), to.data(), from.data(), bytes);
  require(read(reader.get(), to).data(), 1);
}

// The first writes anew before the second has read.
void written_before_read() {
  const DeviceOwner writer("cuda"), reader("cuda");
  const Memory from(writer.get(), n), to(reader.get(), n);
  Event written(writer.get()), taken(reader.get());
  write(writer.get(), from, 1);
  written.set(writer.get());
  written.hold_back(reader.get());
  copy(reader.get(), to.data(), from.data(), bytes);
  taken.set(reader.get());
  if (right) taken.hold_back(writer.get());
  write(writer.get(), from, 2);
  if (!right) synchronize(writer.get());
  require(read(reader.get(), to).data(), 1);
}

void host_writes_what_is_copied() {
  const DeviceOwner owner("cuda");
  const HostMemory host(owner.get(), n);
  const Memory to(owner.get(), n);
  Event copied(owner.get());
  for (float value : {1.f, 2.f}) {
    if (right) copied.wait();
    std::fill_n(host.data(), n, value);
    copy(owner.get(), to.data(), host.data(), bytes);
    copied.set(owner.get());
  }
  require(read(owner.get(), to).data(), 2);
}

void host_reads_what_is_not_there() {
  const DeviceOwner owner("cuda");
  const HostMemory host(owner.get(), n);
  const Memory from(owner.get(), n);
  write(owner.get(), from, 1);
  copy(owner.get(), host.data(), from.data(), bytes);
  if (right) synchronize(owner.get());
  require(host.data(), 1);
}

void host_touches_the_device() {
  const DeviceOwner owner("cuda");
  const Memory memory(owner.get(), n);
  memory.data()[5] = 1;
}

void reads_what_was_never_written() {
  const DeviceOwner owner("cuda");
  float *from = nullptr, to[n];
  check(cudaMalloc(&from, bytes));
  copy(owner.get(), to, from, bytes);
  check(cudaFree(from));
  require(to, 0);
}

void waits_in_a_capture() {
  const DeviceOwner owner("cuda");
  const Memory memory(owner.get(), n);
  Replays<int> replays(make_recorder(owner.get()));
  for (int k = 0; k < 3; ++k)
    replays.run(0, [&] {
      fill_zero(owner.get(), memory.data(), bytes);
      if (!right) synchronize(owner.get());
    });
}

void takes_memory_in_a_capture() {
  const DeviceOwner owner("cuda");
  Replays<int> replays(make_recorder(owner.get()));
  for (int k = 0; k < 2; ++k) replays.run(0, [&] { const Memory memory(owner.get(), n); });
}

void pageable_memory_in_a_capture() {
  const DeviceOwner owner("cuda");
  const Memory memory(owner.get(), n);
  Replays<int> replays(make_recorder(owner.get()));
  for (int k = 0; k < 2; ++k) replays.run(0, [&] { write(owner.get(), memory, 1); });
}

void replays_into_freed_memory() {
  const DeviceOwner owner("cuda");
  const Memory from(owner.get(), n);
  Replays<int> replays(make_recorder(owner.get()));
  {
    const Memory to(owner.get(), n);
    for (int k = 0; k < 2; ++k) replays.run(0, [&] { copy(owner.get(), to.data(), from.data(), bytes); });
  }
  if (!right) replays.run(0, [] {});
  synchronize(owner.get());
}

void product(bool freed_workspace, int64_t row) {
  const DeviceOwner owner("cuda");
  Device d = owner.get();
  const Memory a(d, 64), b(d, 64), c(d, 64);
  if (freed_workspace) {
    const Memory gone(d, device_scratch_floats);
    d.scratch = gone.data();
  }
  gemm(d, false, false, 8, 8, 8, a.data(), b.data(), 0, c.data(), {8, row, 8});
  synchronize(d);
}
void freed_workspace() { product(!right, 8); }
void wrong_leading_dimension() { product(false, right ? 8 : 7); }
void matrix_beyond_its_memory() { product(false, right ? 8 : 16); }

void kernel_on(int64_t elements, int64_t offset) {
  const DeviceOwner owner("cuda");
  const Memory from(owner.get(), n), to(owner.get(), n / 2);
  round(owner.get(), elements, from.data() + offset, reinterpret_cast<Bfloat16*>(to.data()));
  synchronize(owner.get());
}
void misaligned_kernel() { kernel_on(n / 2, right ? 0 : 1); }
void kernel_beyond_its_memory() { kernel_on(right ? n : 2 * n, 0); }

void kernel_on_freed_memory() {
  const DeviceOwner owner("cuda");
  const Memory from(owner.get(), n);
  const float* gone = nullptr;
  {
    const Memory to(owner.get(), n);
    gone = to.data();
  }
  round(owner.get(), n, from.data(), reinterpret_cast<Bfloat16*>(const_cast<float*>(gone)));
  synchronize(owner.get());
}

void copy_beyond_its_memory() {
  const DeviceOwner owner("cuda");
  const Memory memory(owner.get(), n);
  fill_zero(owner.get(), memory.data(), bytes + 4);
}

void freed_twice() {
  float* memory = nullptr;
  check(cudaMalloc(&memory, bytes));
  check(cudaFree(memory));
  check(cudaFree(memory));
}

void never_given_back() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (right) check(cudaStreamDestroy(stream));
}

void stream_that_is_gone() {
  Device d;
  {
    const DeviceOwner owner("cuda");
    d = owner.get();
  }
  synchronize(d);
}

// Of 1x1 with two input and two output channels, which needs a workspace.
void library(cudnnTensorFormat_t format, bool workspace) {
  const DeviceOwner owner("cuda");
  const Memory x(owner.get(), 8), w(owner.get(), 4), y(owner.get(), 8), memory(owner.get(), 4096);
  cudnnHandle_t handle = nullptr;
  cudnnTensorDescriptor_t images = nullptr;
  cudnnFilterDescriptor_t weights = nullptr;
  cudnnConvolutionDescriptor_t how = nullptr;
  cudnnCreate(&handle), cudnnCreateTensorDescriptor(&images), cudnnCreateFilterDescriptor(&weights), cudnnCreateConvolutionDescriptor(&how);
  cudnnSetStream(handle, owner.get().stream);
  cudnnSetTensor4dDescriptor(images, format, CUDNN_DATA_FLOAT, 1, 2, 2, 2);
  cudnnSetFilter4dDescriptor(weights, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, 2, 2, 1, 1);
  cudnnSetConvolution2dDescriptor(how, 0, 0, 1, 1, 1, 1, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT);
  const float one = 1, zero = 0;
  const cudnnStatus_t status =
      cudnnConvolutionForward(handle, &one, images, x.data(), weights, w.data(), how, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                              memory.data(), workspace ? 4096 * sizeof(float) : 16, &zero, images, y.data());
  cudnnDestroyConvolutionDescriptor(how), cudnnDestroyFilterDescriptor(weights), cudnnDestroyTensorDescriptor(images), cudnnDestroy(handle);
  if (status != CUDNN_STATUS_SUCCESS) throw Error(cudnnGetErrorString(status));
}
void small_workspace() { library(CUDNN_TENSOR_NHWC, right); }
void wrong_layout() { library(right ? CUDNN_TENSOR_NHWC : CUDNN_TENSOR_NCHW, true); }

const std::map<std::string, void (*)()> mistakes = {
    {"read-before-written", read_before_written},
    {"written-before-read", written_before_read},
    {"host-writes-what-is-copied", host_writes_what_is_copied},
    {"host-reads-what-is-not-there", host_reads_what_is_not_there},
    {"host-touches-the-device", host_touches_the_device},
    {"reads-what-was-never-written", reads_what_was_never_written},
    {"waits-in-a-capture", waits_in_a_capture},
    {"takes-memory-in-a-capture", takes_memory_in_a_capture},
    {"pageable-memory-in-a-capture", pageable_memory_in_a_capture},
    {"replays-into-freed-memory", replays_into_freed_memory},
    {"freed-workspace", freed_workspace},
    {"wrong-leading-dimension", wrong_leading_dimension},
    {"matrix-beyond-its-memory", matrix_beyond_its_memory},
    {"misaligned-kernel", misaligned_kernel},
    {"kernel-beyond-its-memory", kernel_beyond_its_memory},
    {"kernel-on-freed-memory", kernel_on_freed_memory},
    {"copy-beyond-its-memory", copy_beyond_its_memory},
    {"freed-twice", freed_twice},
    {"never-given-back", never_given_back},
    {"stream-that-is-gone", stream_that_is_gone},
    {"small-workspace", small_workspace},
    {"wrong-layout", wrong_layout},
};

}  // namespace

int main(int argc, char** argv) {
  right = argc > 2 && std::strcmp(argv[2], "right") == 0;
  try {
    mistakes.at(argc > 1 ? argv[1] : "")();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
