#include "pipeline/trainer.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "pipeline/partition.h"
#include "pipeline/transport/local.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The sizes of all passes: mini-batches cut into micro-batches for training, whole for evaluation.
std::vector<int64_t> pass_sizes(const std::vector<int64_t>& batches, int micro_batches) {
  std::set<int64_t> sizes;
  for (int64_t batch : batches) {
    sizes.insert(batch);
    for (int m = 0; m < micro_batches; ++m) sizes.insert(batch * (m + 1) / micro_batches - batch * m / micro_batches);
  }
  sizes.erase(0);
  return {sizes.begin(), sizes.end()};
}

// Copies the segments of a stage out of, or into, the model's flat buffer; `next` walks the model's segments.
template <class Copy>
void each_segment(const Segments& stage, const Segments& model, size_t& next, const Copy& copy) {
  for (size_t k = 0; k < stage.specs.size(); ++k, ++next) copy(stage.offsets[k], model.offsets[next], stage.specs[k].count());
}

}  // namespace

struct Trainer::Parts {
  Graph graph;
  TrainerOptions options;
  const Method* method;
  std::vector<int> partition;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<std::unique_ptr<DeviceOwner>> devices;
  std::vector<std::unique_ptr<Link>> links;
  std::vector<std::unique_ptr<Stage>> stages;
  std::vector<Program> programs;
  std::unique_ptr<Executor> executor;  // last: its threads end before what they use
  double train_seconds = 0;
  int64_t samples = 0;  // of the running program, whose losses are summed so far

  Outcome run(const Batches& data, Loader& loader, Feed feed, int64_t begin, int64_t end);
};

Trainer::Trainer(Graph graph, TrainerOptions options, std::vector<int64_t> batch_sizes)
    : parts_(std::make_unique<Parts>(Parts{std::move(graph), std::move(options), nullptr, {}, nullptr, {}, {}, {}, {}, nullptr})) {
  Parts& p = *parts_;
  const TrainerOptions& o = p.options;
  const std::vector<Part>& model_parts = p.graph.parts();
  if (o.batch < 1) throw UsageError("the batch size is " + std::to_string(o.batch) + ": give at least 1");
  if (o.micro_batches < 1) throw UsageError("the number of micro-batches is " + std::to_string(o.micro_batches) + ": give at least 1");
  if (o.stages < 1) throw UsageError("the number of stages is " + std::to_string(o.stages) + ": give at least 1");
  p.method = &find_method(o.method);
  p.optimizer = make_optimizer(o.optimizer);
  o.schedule.validate();
  p.partition = o.partition.empty() ? pipecast::partition(estimated_costs(p.graph, o.batch), o.stages) : o.partition;
  int given = 0;
  for (int count : p.partition) given += count;
  if (int(p.partition.size()) != o.stages || given != int(model_parts.size()))
    throw UsageError("the partition names " + std::to_string(given) + " parts for " + std::to_string(p.partition.size()) +
                     " stages; model " + p.graph.name() + " has " + std::to_string(model_parts.size()) + " parts and the run " +
                     std::to_string(o.stages) + " stages");
  if (batch_sizes.empty()) batch_sizes = {o.batch};

  const int machine = int(std::max(1u, std::thread::hardware_concurrency()));
  const int per_stage = std::max(1, (o.threads > 0 ? o.threads : machine) / o.stages);
  const int before = threads();
  set_threads(per_stage);
  // Frames and copies do not grow any more once the pipeline is full.
  const Setting setting{o.stages, 4 * o.stages + 4, o.micro_batches, o.look_ahead};
  const std::vector<Program> programs = make_programs(*p.method, setting);
  for (const Program& program : programs)
    for (const Instruction& i : program)
      if (i.ahead > max_look_ahead)
        throw UsageError("method " + o.method + " predicts " + std::to_string(i.ahead) + " updates ahead with " + std::to_string(o.stages) +
                         " stages; at most " + std::to_string(max_look_ahead) + " are possible: use fewer stages or another method");
  const std::vector<int64_t> sizes = pass_sizes(batch_sizes, o.micro_batches);
  std::vector<Stage*> stages;
  for (int k = 0, part = 0; k < o.stages; part += p.partition[k++]) {
    p.devices.push_back(std::make_unique<DeviceOwner>(o.device));
    StageOptions s;
    s.device = p.devices.back()->get();
    s.index = k, s.count = o.stages;
    s.first_node = model_parts[part].first, s.last_node = model_parts[part + p.partition[k] - 1].last;
    s.batches = sizes;
    s.micro_batches = o.micro_batches;
    s.frames = std::max(1, frames_needed(programs[k])), s.predicts = predicts(programs[k]), s.stash_slots = stash_slots(programs[k]);
    s.look_ahead = o.look_ahead;
    s.optimizer = p.optimizer.get();
    s.schedule = o.schedule;
    s.label_smoothing = o.label_smoothing;
    s.seed = o.seed;
    p.stages.push_back(std::make_unique<Stage>(p.graph, s));
    stages.push_back(p.stages.back().get());
  }
  set_threads(before);

  std::vector<Link*> links;
  for (int k = 0; k + 1 < o.stages; ++k) {
    int64_t activations = 0, gradients = 0;
    for (int v : stages[k]->section().outputs()) {
      int64_t floats = aligned(p.graph.shapes(sizes.back())[v].count());
      activations += floats;
      if (v > 0) gradients += floats;
    }
    const Device d = p.devices[k]->get();
    for (int64_t floats : {activations, gradients}) p.links.push_back(local_link(d, floats)), links.push_back(p.links.back().get());
    stages[k]->activations_out = stages[k + 1]->activations_in = links[links.size() - 2];
    stages[k]->gradients_in = stages[k + 1]->gradients_out = links.back();
  }
  p.executor = make_executor(o.executor, stages, links, per_stage);
  set_weights(initial_weights(p.graph, o.seed));
}

Trainer::~Trainer() = default;

Outcome Trainer::Parts::run(const Batches& data, Loader& loader, Feed feed, int64_t begin, int64_t end) {
  std::vector<std::unique_ptr<Batches>> batches;
  for (size_t k = 0; k < stages.size(); ++k) {
    batches.push_back(std::make_unique<Batches>(data));
    feed.batches = batches.back().get();
    feed.loader = &loader;
    feed.first_minibatch = begin;
    stages[k]->begin(programs[k], feed);
  }
  const auto start = Clock::now();
  samples = 0;
  executor->run();
  Outcome outcome;
  outcome.seconds = seconds_since(start);
  for (int64_t index = begin; index < end; ++index) outcome.samples += data.size(index);
  const LossTotals totals = stages.back()->totals();
  if (outcome.samples > 0) outcome.loss = totals.loss / double(outcome.samples), outcome.accuracy = totals.hits / double(outcome.samples);
  return outcome;
}

Outcome Trainer::train(const Batches& data, int64_t begin, int64_t end, const std::function<void(int64_t)>& progress) {
  Parts& p = *parts_;
  p.programs = make_programs(*p.method, {p.options.stages, end - begin, p.options.micro_batches, p.options.look_ahead});
  Loader loader(data, begin, end);
  Feed feed;
  feed.updates_per_epoch = data.per_epoch();
  feed.on_minibatch = [&](int64_t minibatch) {
    p.samples += data.size(begin + minibatch);
    if (progress) progress(minibatch + 1);
  };
  Outcome outcome = p.run(data, loader, feed, begin, end);
  p.train_seconds += outcome.seconds;
  return outcome;
}

double Trainer::mean_loss() { return parts_->samples > 0 ? parts_->stages.back()->totals().loss / double(parts_->samples) : 0; }

Outcome Trainer::evaluate(const Batches& data, std::vector<float>* logits) {
  Parts& p = *parts_;
  p.programs.clear();
  for (int k = 0; k < p.options.stages; ++k) p.programs.push_back(evaluation_program(p.options.stages, data.per_epoch(), k));
  Loader loader(data, 0, data.per_epoch());
  Feed feed;
  feed.training = false;
  if (logits) {
    logits->clear();
    feed.on_logits = [logits](const Tensor& t) { logits->insert(logits->end(), t.data, t.data + t.shape.count()); };
  }
  return p.run(data, loader, feed, 0, data.per_epoch());
}

Weights Trainer::weights() const {
  const Parts& p = *parts_;
  Weights w{p.graph.parameters(), p.graph.statistics(), {}, {}};
  w.parameter_values.resize(w.parameters.total), w.statistic_values.resize(w.statistics.total);
  size_t parameter = 0, statistic = 0;
  for (const auto& stage : p.stages) {
    const Device d = p.devices[&stage - p.stages.data()]->get();
    each_segment(stage->store().segments(), w.parameters, parameter, [&](int64_t from, int64_t to, int64_t count) {
      copy(d, w.parameter_values.data() + to, stage->store().latest() + from, size_t(count) * sizeof(float));
    });
    each_segment(stage->section().statistics(), w.statistics, statistic, [&](int64_t from, int64_t to, int64_t count) {
      copy(d, w.statistic_values.data() + to, stage->statistics() + from, size_t(count) * sizeof(float));
    });
    synchronize(d);
  }
  return w;
}

void Trainer::set_weights(const Weights& w) {
  Parts& p = *parts_;
  size_t parameter = 0, statistic = 0;
  for (auto& stage : p.stages) {
    const Device d = p.devices[&stage - p.stages.data()]->get();
    each_segment(stage->store().segments(), w.parameters, parameter, [&](int64_t to, int64_t from, int64_t count) {
      copy(d, stage->store().latest() + to, w.parameter_values.data() + from, size_t(count) * sizeof(float));
    });
    each_segment(stage->section().statistics(), w.statistics, statistic, [&](int64_t to, int64_t from, int64_t count) {
      copy(d, stage->statistics() + to, w.statistic_values.data() + from, size_t(count) * sizeof(float));
    });
    synchronize(d);
  }
}

int64_t Trainer::updates() const { return parts_->stages.back()->updates(); }
const Graph& Trainer::graph() const { return parts_->graph; }
const TrainerOptions& Trainer::options() const { return parts_->options; }
const std::vector<int>& Trainer::partition() const { return parts_->partition; }

std::vector<StageSummary> Trainer::summaries() {
  Parts& p = *parts_;
  std::vector<StageSummary> summaries;
  for (size_t k = 0, part = 0; k < p.stages.size(); part += p.partition[k++]) {
    Stage& stage = *p.stages[k];
    const StageReport report = stage.report();
    StageSummary s;
    s.first_part = int(part), s.parts = p.partition[k];
    for (const ParameterSpec& spec : stage.store().segments().specs) s.parameters += spec.count();
    s.copies = stage.copies(), s.frames = stage.frames();
    s.busy_share = p.train_seconds > 0 ? report.busy_seconds / p.train_seconds : 0;
    s.prediction_error = report.prediction.relative();
    s.memory = stage.memory();
    summaries.push_back(s);
  }
  p.train_seconds = 0;
  return summaries;
}

std::vector<double> estimated_costs(const Graph& graph, int64_t batch) {
  // A forward and two backward products a convolution, and about eight visits to every value (kernels, normalisation and their
  // gradients), at rates of a common host core: only their proportion matters.
  constexpr double flops_per_second = 80e9, bytes_per_second = 10e9, products = 3, visits = 8;
  const std::vector<Shape> shapes = graph.shapes(batch);
  std::vector<double> costs;
  for (const Part& part : graph.parts()) {
    double seconds = 0;
    for (int i = part.first; i < part.last; ++i) {
      std::vector<Shape> x;
      for (int v : graph.nodes()[i].inputs) x.push_back(shapes[v]);
      seconds += products * graph.nodes()[i].layer->flops(x) / flops_per_second;
      seconds += visits * double(shapes[i + 1].count()) * sizeof(float) / bytes_per_second;
    }
    costs.push_back(seconds);
  }
  return costs;
}

std::vector<double> measured_costs(const Graph& graph, int64_t batch, const std::string& device, int threads_per_stage) {
  constexpr int runs = 3;
  DeviceOwner owner(device);
  const Device d = owner.get();
  const int before = threads();
  set_threads(threads_per_stage);
  std::vector<double> costs;
  for (const Part& part : graph.parts()) {
    Section section(d, graph, part.first, part.last, {batch}, 1);
    Memory weights(d, section.parameters().total), gradients(d, section.parameters().total), statistics(d, section.statistics().total);
    const Binding w = section.bind_parameters(weights.data()), g = section.bind_parameters(gradients.data()),
                  s = section.bind_statistics(statistics.data());
    double least = 1e30;
    for (int run = 0; run <= runs; ++run) {  // the first warms up
      const auto start = Clock::now();
      section.forward(0, batch, w, s, {});
      section.backward(0, batch, w, g, s, {});
      synchronize(d);
      if (run > 0) least = std::min(least, seconds_since(start));
    }
    costs.push_back(least);
  }
  set_threads(before);
  return costs;
}

}  // namespace pipecast
