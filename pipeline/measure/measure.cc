#include "pipeline/measure/measure.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include "engine/median.h"
#include "engine/memory.h"
#include "optim/gradient_norm.h"
#include "pipeline/measure/layer_times.h"
#include "pipeline/plan/partition.h"
#include "pipeline/run/section.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t runs = 7;  // that count; one before them warms up

template <class F>
double seconds_of(Device device, const F& f) {
  const auto start = Clock::now();
  f();
  synchronize(device);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of functions in turns, so that a machine that grows slower does so for all of them.
template <class... F>
std::array<double, sizeof...(F)> median_seconds_in_turns(Device device, const F&... f) {
  std::array<std::vector<double>, sizeof...(F)> seconds;
  for (size_t run = 0; run <= runs; ++run) {
    size_t k = 0;
    ((seconds[k++].push_back(seconds_of(device, f))), ...);
  }
  std::array<double, sizeof...(F)> medians;
  for (size_t k = 0; k < medians.size(); ++k) medians[k] = median({seconds[k].begin() + 1, seconds[k].end()});
  return medians;
}

// A part with memory of its own, and the times of its passes.
class MeasuredPart {
 public:
  MeasuredPart(Device device, const Graph& graph, const Part& part, const PassShape& pass, const SectionOptions& options)
      : device_(device),
        pass_(pass),
        splits_(options.split_backward),
        section_(device, graph, part.first, part.last, {pass}, 1, options),
        weights_(device, section_.parameters().total),
        gradients_(device, section_.parameters().total),
        statistics_(device, section_.statistics().total),
        w_(section_.bind_parameters(weights_.data())),
        g_(section_.bind_parameters(gradients_.data())),
        s_(section_.bind_statistics(statistics_.data())) {
    fill_lengths(device, graph, section_, pass);
  }

  void forward() {
    forward_.push_back(seconds_of(device_, [&] { section_.forward(0, pass_, w_, s_, {}); }));
  }
  void backward() {
    if (!splits_) return backward_.push_back(half(Half::both));
    input_half_.push_back(half(Half::input));
    weight_half_.push_back(half(Half::weight));
  }
  // Without the first run.
  void add_to(PartSeconds& part) const {
    auto later = [](const std::vector<double>& all) { return median({all.begin() + 1, all.end()}); };
    if (splits_) part.input_half = later(input_half_), part.weight_half = later(weight_half_);
    else part.forward = later(forward_), part.backward = later(backward_);
  }

 private:
  double half(Half which) {
    return seconds_of(device_, [&] { section_.backward(0, pass_, w_, g_, s_, {}, which); });
  }

  Device device_;
  PassShape pass_;
  bool splits_;
  Section section_;
  Memory weights_, gradients_, statistics_;
  Binding w_, g_, s_;
  std::vector<double> forward_, backward_, input_half_, weight_half_;
};

}  // namespace

std::vector<PartSeconds> measure_parts(const Graph& graph, const PassShape& pass, const std::string& device, const std::string& math,
                                       int threads_of_a_stage, int stages, bool halves) {
  const size_t parts = graph.parts().size();
  std::vector<PartSeconds> costs(parts);
  const int before = threads(), cores = int(std::thread::hardware_concurrency());
  const int workers = std::clamp(cores / threads_of_a_stage, 1, std::min(stages, int(parts)));
  set_threads(threads_of_a_stage);
  for (bool splits : {false, true}) {
    if (splits && !halves) continue;
    // Each worker has consecutive parts: a layer is not run by two of them.
    const std::vector<int> shares = partition(std::vector<double>(parts, 1), workers);
    std::vector<std::unique_ptr<DeviceOwner>> devices;
    std::vector<std::vector<MeasuredPart>> owned;
    size_t next = 0;
    for (int share : shares) {
      devices.push_back(std::make_unique<DeviceOwner>(device, math));
      owned.push_back({});
      const SectionOptions section{activation_storage(math), splits};
      for (; share > 0; --share) owned.back().emplace_back(devices.back()->get(), graph, graph.parts()[next++], pass, section);
    }

    // Everybody goes on until the slowest has enough, so that all of them are disturbed all the time.
    std::atomic<size_t> finished = 0;
    std::mutex mutex;
    std::exception_ptr error;
    auto work = [&](std::vector<MeasuredPart>& mine) {
      set_threads(threads_of_a_stage);
      try {
        for (size_t round = 0; round <= runs || finished < owned.size(); ++round) {
          for (MeasuredPart& part : mine) part.forward();
          for (size_t p = mine.size(); p-- > 0;) mine[p].backward();
          if (round == runs) ++finished;
        }
      } catch (...) {
        std::lock_guard lock(mutex);
        error = std::current_exception();
        finished = owned.size();
      }
    };
    std::vector<std::jthread> workers_running;
    try {
      for (std::vector<MeasuredPart>& mine : owned) workers_running.emplace_back(work, std::ref(mine));
    } catch (...) {  // the system refused one: the others stop
      finished = owned.size();
      throw;
    }
    workers_running.clear();
    if (error) std::rethrow_exception(error);
    next = 0;
    for (const std::vector<MeasuredPart>& mine : owned)
      for (const MeasuredPart& part : mine) part.add_to(costs[next++]);
  }
  set_threads(before);
  return costs;
}

UpdateSeconds measure_updates(const Optimizer& optimizer, const Segments& parameters, LookAheadMode mode, int ahead,
                              const std::string& device) {
  const DeviceOwner owner(device);
  const Device d = owner.get();
  const int64_t n = parameters.total;
  const std::vector<Matrix> all_matrices = matrices(parameters);
  const Memory weights(d, n), gradient(d, n), predicted(d, n), state(d, optimizer.states() * n);
  const Memory scratch(d, optimizer.scratch(all_matrices));
  Buffers buffers{n, weights.data(), gradient.data(), {}, nullptr, all_matrices, scratch.data()};
  for (int k = 0; k < optimizer.states(); ++k) buffers.state[size_t(k)] = state.data() + k * n;
  const std::vector<float> rates(size_t(std::clamp(ahead, 1, max_look_ahead)), 0.01f);
  const LookAhead look_ahead{mode, rates};
  int64_t updates = 0;
  auto step = [&](float* place) {
    fill_zero(d, gradient.data(), size_t(n) * sizeof(float));
    buffers.predicted = place;
    optimizer.step(d, buffers, Update{.t = ++updates, .rate = 0.01f}, place ? look_ahead : LookAhead{});
  };
  const Memory sums(d, square_sum_floats);
  const auto [alone, with_prediction, prediction, norm, stash] = median_seconds_in_turns(
      d, [&] { step(nullptr); }, [&] { step(predicted.data()); }, [&] { optimizer.predict(d, buffers, updates, look_ahead); },
      [&] { square_sum(d, n, gradient.data(), sums.data()); },
      [&] { copy(d, predicted.data(), weights.data(), size_t(n) * sizeof(float)); });
  return {alone, with_prediction, prediction, norm, stash};
}

std::vector<double> measure_part_updates(const Graph& graph, const Optimizer& optimizer, LookAheadMode mode, const std::string& device,
                                         int threads_of_a_stage) {
  const int before = threads();
  set_threads(threads_of_a_stage);
  auto measured = [&](const Segments& parameters) {
    if (parameters.total == 0) return 0.0;
    const UpdateSeconds update = measure_updates(optimizer, parameters, mode, 1, device);
    return update.norm + update.step_and_predict;
  };
  // Alone, a part's weights stay in the cache from one update to the next, as in a run they do not: the parts share what all take together.
  std::vector<double> seconds;
  for (const Part& part : graph.parts()) seconds.push_back(measured(graph.collect(part.first, part.last, &Layer::parameters)));
  const double alone = std::accumulate(seconds.begin(), seconds.end(), 0.0), together = measured(graph.parameters());
  for (double& s : seconds) s *= alone > 0 ? together / alone : 0;
  set_threads(before);
  return seconds;
}

double measure_copy_rate(int64_t bytes, const std::string& device) {
  const DeviceOwner owner(device);
  const int64_t floats = (bytes + int64_t(sizeof(float)) - 1) / int64_t(sizeof(float));
  const Memory from(owner.get(), floats), to(owner.get(), floats);
  const auto [seconds] = median_seconds_in_turns(owner.get(), [&] { copy(owner.get(), to.data(), from.data(), size_t(bytes)); });
  return double(bytes) / seconds;
}

std::vector<double> measured_costs(const Graph& graph, const TrainerOptions& o) {
  const int threads = o.threads_per_stage();
  std::vector<double> costs = measure_part_updates(graph, *make_optimizer(o.optimizer), o.look_ahead, o.device, threads);
  const std::vector<PartSeconds> passes = measure_parts(graph, o.pass(), o.device, o.math, threads, o.stages, false);
  for (size_t part = 0; part < costs.size(); ++part) costs[part] += o.micro_batches * (passes[part].forward + passes[part].backward);
  return costs;
}

}  // namespace pipecast
