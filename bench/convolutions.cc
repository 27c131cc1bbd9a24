// Every way that this build has to compute a convolution, on the shapes of the ResNets, timed: what the choice of plan_convolution() rests
// on.
//
//   build/bench/convolutions [cpu|cuda] [batch] [fp32|tf32|bf16]
//
// A line per implementation and type of image: microseconds and TFLOP/s of forward, gradient of the inputs, gradient of the weights.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "engine/convolution/convolution.h"
#include "engine/memory.h"
#include "engine/random.h"

using namespace pipecast;

namespace {

// Of one call, in microseconds: the fastest of some rounds. Calls that take long are few.
double timed(Device d, const std::function<void()>& call) {
  constexpr int rounds = 3;
  using Clock = std::chrono::steady_clock;
  double fastest = 1e30;
  int calls = 10;
  call();
  for (int round = 0; round < rounds; ++round) {
    synchronize(d);
    if (fastest > 2000 && round > 0) calls = 1;
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    synchronize(d);
    fastest = std::min(fastest, std::chrono::duration<double, std::micro>(Clock::now() - begin).count() / calls);
  }
  return fastest;
}

template <class T>
void bench(const char* name, Device d, const ConvolutionShape& s, const std::unique_ptr<ConvolutionPlanOf<T>>& plan) {
  if (!plan) return;
  const int64_t images = std::max(s.in.count(), s.out().count());
  const Memory x(d, images), y(d, images), weight(d, s.weight_count()), dweight(d, s.weight_count()), workspace(d, plan->workspace());
  std::vector<float> noise(static_cast<size_t>(images));
  const Random random{1, 2, 3};
  for (size_t i = 0; i < noise.size(); ++i) noise[i] = random.uniform(i) - 0.5f;
  std::vector<T> of_images(noise.begin(), noise.end());
  for (const Memory* memory : {&x, &y}) copy(d, memory->data(), of_images.data(), of_images.size() * sizeof(T));
  copy(d, weight.data(), noise.data(), size_t(std::min(images, s.weight_count())) * sizeof(float));
  synchronize(d);
  auto *in = reinterpret_cast<T*>(x.data()), *out = reinterpret_cast<T*>(y.data());
  const double forward = timed(d, [&] { plan->forward(d, in, weight.data(), out, workspace.data()); });
  const double input = timed(d, [&] { plan->backward_input(d, out, weight.data(), in, false, workspace.data()); });
  const double weights = timed(d, [&] { plan->backward_weight(d, in, out, dweight.data(), workspace.data()); });
  std::printf("  %-6s", name);
  for (double microseconds : {forward, input, weights}) std::printf(" %9.1f us %6.2f TFLOP/s", microseconds, s.flops() / microseconds * 1e-6);
  std::printf("  %s\n", plan->implementation().c_str());
  std::fflush(stdout);
}

// In batches of n: ResNet-20 and ResNet-9 for images of 32 x 32, then ResNet-18, ResNet-50 and the depthwise ones of
// MobileNetV2 for images of 224 x 224.
std::vector<ConvolutionShape> shapes(int64_t n) {
  std::vector<ConvolutionShape> all;
  const auto add = [&](int64_t size, int64_t in, int64_t out, int64_t kernel, int64_t stride = 1) {
    all.push_back({{n, size, size, in}, out, kernel, kernel, stride, kernel / 2, kernel / 2});
  };
  add(32, 3, 16, 3);
  for (int64_t size = 32, c = 16; c <= 64; size /= 2, c *= 2) {
    add(size, c, c, 3);
    if (c < 64) add(size, c, 2 * c, 3, 2), add(size, c, 2 * c, 1, 2);
  }
  add(32, 3, 64, 3), add(32, 64, 128, 3), add(16, 128, 128, 3), add(16, 128, 256, 3), add(8, 256, 512, 3), add(4, 512, 512, 3);
  add(224, 3, 64, 7, 2);
  for (int64_t size = 56, c = 64; c <= 512; size /= 2, c *= 2) {
    add(size, c, c, 3);
    add(size, c, 4 * c, 1);
    add(size, 4 * c, c, 1);
    if (c < 512) add(size, 2 * c, 2 * c, 3, 2), add(size, 4 * c, 8 * c, 1, 2);
  }
  const auto add_depthwise = [&](int64_t size, int64_t c, int64_t stride) {
    all.push_back({{n, size, size, c}, c, 3, 3, stride, 1, 1, 1, c});
  };
  add_depthwise(112, 32, 1), add_depthwise(112, 96, 2), add_depthwise(56, 144, 1), add_depthwise(14, 384, 1), add_depthwise(7, 960, 1);
  return all;
}

template <class Plan>
void bench_host(const ConvolutionShape& s, const char* name, Plan plan) {
  bench<float>(name, Device{}, s, plan(Device{}, s));
}

}  // namespace

int main(int count, char** arguments) {
  const bool gpu = count > 1 && std::string(arguments[1]) == "cuda";
  const int64_t n = count > 2 ? std::atoll(arguments[2]) : gpu ? 128 : 16;
  for (const ConvolutionShape& s : shapes(n)) {
    std::printf("%s\n", to_string(s).c_str());
    if (!gpu) {
      bench_host(s, "fp32", plan_convolution);
      bench_host(s, "fp32", plan_convolution_onednn);
      continue;
    }
    for (const char* math : {"fp32", "tf32", "bf16"}) {
      if (count > 3 && std::string(arguments[3]) != math) continue;
      const DeviceOwner owner("cuda", math);
      const Device d = owner.get();
      if (std::string(math) == "bf16") {
        bench<Bfloat16>(math, d, s, plan_convolution_bf16(d, s));
        bench<Bfloat16>(math, d, s, plan_convolution_tensor_cores(d, s));
        bench<Bfloat16>(math, d, s, plan_convolution_cudnn_bf16(d, s));
      } else {
        bench<float>(math, d, s, plan_convolution(d, s));
        bench<float>(math, d, s, plan_convolution_tiles(d, s));
        bench<float>(math, d, s, plan_convolution_cudnn(d, s));
      }
    }
  }
}
