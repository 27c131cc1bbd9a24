#include "pipeline/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <set>
#include <thread>

#include "pipeline/plan/audit.h"
#include "pipeline/run/gradient_norms.h"
#include "pipeline/measure/measure.h"
#include "pipeline/plan/partition.h"
#include "pipeline/run/transport/threads.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Copies the segments of a stage out of, or into, the model's flat buffer; `next` walks the model's segments.
template <class Copy>
void each_segment(const Segments& stage, const Segments& model, size_t& next, const Copy& copy) {
  for (size_t k = 0; k < stage.specs.size(); ++k, ++next) copy(stage.offsets[k], model.offsets[next], stage.specs[k].count());
}

// By mini-batch: the updates that all stages have done when the last has its loss. A stage forwards a mini-batch before the next one does,
// so what stands before that in its program is done, however far it has come since.
std::vector<int64_t> updates_before_loss(const std::vector<Program>& programs, int micro_batches) {
  const int last_chunk = chunks(programs) - 1;
  std::vector<int64_t> updates(size_t(minibatches(programs)), std::numeric_limits<int64_t>::max());
  for (const Program& program : programs) {
    int64_t steps = 0;
    for (const Instruction& i : program) {
      steps += is_step(i.operation);
      if (i.operation != Operation::forward || i.chunk != last_chunk || i.micro != micro_batches - 1) continue;
      updates[size_t(i.minibatch)] = std::min(updates[size_t(i.minibatch)], steps);
    }
  }
  return updates;
}

}  // namespace

struct Trainer::Parts {
  Graph graph;
  TrainerOptions options;
  std::vector<int> partition = {};
  std::optional<Layout> layout = {};
  std::unique_ptr<Optimizer> optimizer = nullptr;
  std::vector<std::unique_ptr<DeviceOwner>> devices = {};
  std::unique_ptr<Transport> transport = threads_transport();
  std::unique_ptr<GradientNorms> norms = nullptr;
  std::vector<std::unique_ptr<Stage>> stages = {};
  std::vector<Program> programs = {};
  Trace* trace = nullptr;
  std::unique_ptr<Executor> executor = nullptr;  // last: its threads end before what they use
  double train_seconds = 0;
  std::vector<int64_t> updates = {};  // by mini-batch of the program: see updates_before_loss()
  int64_t updated = 0;                // of them that of the mini-batch whose loss is the newest

  void connect();
  Outcome run(const Batches& data, Feed feed, int64_t begin, int64_t end);
  // Calls visit(stage, its chunk) for the model's pieces in their order.
  template <class Visit>
  void each_piece(const Visit& visit) const {
    for (const Piece& piece : layout->pieces()) visit(*stages[size_t(piece.stage)], piece.chunk);
  }
};

Trainer::Trainer(Graph graph, TrainerOptions options, std::vector<PassShape> batch_shapes)
    : parts_(std::make_unique<Parts>(Parts{std::move(graph), std::move(options)})) {
  Parts& p = *parts_;
  const TrainerOptions& o = p.options;
  p.optimizer = make_optimizer(o.optimizer);
  RunLayout layout = resolve(p.graph, o, std::move(batch_shapes));
  p.partition = layout.partition;
  p.layout = std::move(layout.model);
  const int before = threads();
  set_threads(o.threads_per_stage());
  if ((o.clip_norm > 0 || o.non_finite == NonFinite::skip) && o.stages > 1 && is_synchronous(layout.programs))
    p.norms = std::make_unique<GradientNorms>(o.stages);
  std::vector<Stage*> stages;
  for (StageOptions& s : layout.stages) {
    p.devices.push_back(std::make_unique<DeviceOwner>(o.device, o.math));
    s.device = p.devices.back()->get();
    s.layout = &*p.layout;
    s.optimizer = p.optimizer.get();
    s.all_norms = p.norms.get();
    p.stages.push_back(std::make_unique<Stage>(p.graph, s));
    stages.push_back(p.stages.back().get());
  }
  set_threads(before);
  p.connect();
  auto stop = [&p] {
    p.transport->close();
    if (p.norms) p.norms->close();
  };
  p.executor = make_executor(o.executor, stages, stop, o.threads_per_stage());
  p.each_piece([&o](const Stage& stage, int chunk) {
    const Device d = stage.device();
    const auto begin = [&](const Segments& segments, float* place) {
      if (!d.gpu) return initialize(segments, o.seed, place);
      std::vector<float> values(size_t(segments.total));
      initialize(segments, o.seed, values.data());
      copy(d, place, values.data(), values.size() * sizeof(float));
      synchronize(d);
    };
    begin(stage.section(chunk).parameters(), stage.latest(chunk));
    begin(stage.section(chunk).statistics(), stage.statistics(chunk));
  });
}

// Gives the stages the ends of their channels.
void Trainer::Parts::connect() {
  const std::vector<SpecTable>& tables = stages.front()->section().plan().tables;
  const std::vector<Channel>& channels = layout->channels().all();
  for (auto& stage : stages) stage->senders.resize(channels.size()), stage->receivers.resize(channels.size());
  for (size_t c = 0; c < channels.size(); ++c) {
    const Channel& channel = channels[c];
    // In memory of the stage with the earlier piece, in both directions.
    const Device d = devices[size_t(channel.gradients ? channel.to : channel.from)]->get();
    Ends ends = transport->connect(int(c), {d, layout->message_floats(int(c), tables), channel.capacity});
    stages[size_t(channel.from)]->senders[c] = std::move(ends.sender);
    stages[size_t(channel.to)]->receivers[c] = std::move(ends.receiver);
  }
}

Trainer::~Trainer() = default;

Outcome Trainer::Parts::run(const Batches& data, Feed feed, int64_t begin, int64_t end) {
  feed.batches = &data, feed.first_minibatch = begin, feed.end_minibatch = end;
  for (size_t k = 0; k < stages.size(); ++k) {
    feed.track = feed.training && trace ? &trace->track(int(k)) : nullptr;
    stages[k]->begin(programs[k], feed);
  }
  const auto start = Clock::now();
  executor->run();
  for (auto& device : devices) synchronize(device->get());
  Outcome outcome;
  outcome.seconds = seconds_since(start);
  for (int64_t index = begin; index < end; ++index) outcome.samples += data.size(index);
  const LossTotals totals = stages.back()->totals();
  const std::vector<std::string> means = graph.loss()->means();
  for (size_t k = 0; k < means.size() && outcome.samples > 0; ++k) {
    if (means[k] == "loss") outcome.loss = totals.sums[k] / totals.counts[k], outcome.loss_count = totals.counts[k];
    if (means[k] == "accuracy") outcome.accuracy = totals.sums[k] / totals.counts[k], outcome.accuracy_count = totals.counts[k];
  }
  return outcome;
}

Outcome Trainer::train(const Batches& data, int64_t begin, int64_t end, const std::function<void(int64_t)>& progress) {
  Parts& p = *parts_;
  check_minibatches(end - begin);
  check_batches(data);
  Setting setting;
  setting.minibatches = end - begin, setting.done = begin;
  p.programs = programs_of(p.options, setting, data.per_epoch());
  p.updates = updates_before_loss(p.programs, p.options.micro_batches);
  p.updated = 0;
  if (p.trace) p.trace->expect(p.programs, begin);
  Feed feed;
  feed.updates_per_epoch = data.per_epoch();
  feed.on_minibatch = [&](int64_t minibatch) {
    p.updated = p.updates[size_t(minibatch)];
    if (progress) progress(minibatch + 1);
  };
  Outcome outcome = p.run(data, feed, begin, end);
  p.train_seconds += outcome.seconds;
  return outcome;
}

void Trainer::check_minibatches(int64_t count) const {
  const std::vector<Program>& programs = parts_->options.programs;
  if (!programs.empty() && count % minibatches(programs) != 0)
    throw UsageError("the program is for " + std::to_string(minibatches(programs)) + " mini-batches and " + std::to_string(count) +
                     " are trained from one evaluation or checkpoint to the next: make the one a multiple of the other");
}

void Trainer::check_batches(const Batches& data) const {
  check_training(parts_->graph, data.shapes(), parts_->options.micro_batches);
}

void Trainer::check_size(int64_t count) const {
  const TrainerOptions& o = parts_->options;
  Setting setting;
  setting.stages = o.stages, setting.minibatches = count, setting.micro_batches = o.micro_batches;
  setting.chunks = int(parts_->partition.size()) / o.stages;
  check_setting(setting);
}

void Trainer::record(Trace* trace) { parts_->trace = trace; }

MeanLoss Trainer::loss_so_far() {
  const LossTotals totals = parts_->stages.back()->totals();
  return {totals.counts[0] == 0 ? 0 : totals.sums[0] / totals.counts[0], totals.counts[0]};
}

double Trainer::gradient_norm() const {
  double sum = 0;
  for (const auto& stage : parts_->stages) sum += stage->square_sum(parts_->updated);
  return std::sqrt(sum);
}

Outcome Trainer::evaluate(const Batches& data, std::vector<float>* prediction) {
  if (!prediction) return evaluate(data, std::function<void(const Tensor&)>());
  prediction->clear();
  return evaluate(data,
                  [prediction](const Tensor& t) { prediction->insert(prediction->end(), t.as<float>(), t.as<float>() + t.shape.count()); });
}

Outcome Trainer::evaluate(const Batches& data, const std::function<void(const Tensor&)>& on_prediction) {
  check_size(data.per_epoch());
  Parts& p = *parts_;
  p.programs.clear();
  Setting setting;
  setting.stages = p.options.stages, setting.micro_batches = p.options.micro_batches;
  setting.chunks = int(p.partition.size()) / p.options.stages;
  for (int k = 0; k < p.options.stages; ++k) p.programs.push_back(evaluation_program(setting, data.per_epoch(), k));
  Feed feed;
  feed.training = false;
  feed.on_prediction = on_prediction;
  return p.run(data, feed, 0, data.per_epoch());
}

Weights Trainer::weights() const {
  const Parts& p = *parts_;
  Weights w{p.graph.parameters(), p.graph.statistics(), {}, {}};
  w.parameter_values.resize(w.parameters.total), w.statistic_values.resize(w.statistics.total);
  size_t parameter = 0, statistic = 0;
  p.each_piece([&](const Stage& stage, int chunk) {
    const Device d = stage.device();
    each_segment(stage.section(chunk).parameters(), w.parameters, parameter, [&](int64_t from, int64_t to, int64_t count) {
      copy(d, w.parameter_values.data() + to, stage.evaluated(chunk) + from, size_t(count) * sizeof(float));
    });
    each_segment(stage.section(chunk).statistics(), w.statistics, statistic, [&](int64_t from, int64_t to, int64_t count) {
      copy(d, w.statistic_values.data() + to, stage.statistics(chunk) + from, size_t(count) * sizeof(float));
    });
    synchronize(d);
  });
  return w;
}

void Trainer::set_weights(const Weights& w) {
  const Parts& p = *parts_;
  const auto alike = [](const ParameterSpec& a, const ParameterSpec& b) { return a.name == b.name && a.shape == b.shape; };
  const std::vector<ParameterSpec> parameters = p.graph.parameters().specs, statistics = p.graph.statistics().specs;
  if (!std::ranges::equal(parameters, w.parameters.specs, alike) || !std::ranges::equal(statistics, w.statistics.specs, alike))
    throw UsageError("the weights are not those of the model '" + p.graph.name() + "' as it is made here: names or shapes differ");
  size_t parameter = 0, statistic = 0;
  p.each_piece([&](const Stage& stage, int chunk) {
    const Device d = stage.device();
    each_segment(stage.section(chunk).parameters(), w.parameters, parameter, [&](int64_t to, int64_t from, int64_t count) {
      copy(d, stage.latest(chunk) + to, w.parameter_values.data() + from, size_t(count) * sizeof(float));
    });
    each_segment(stage.section(chunk).statistics(), w.statistics, statistic, [&](int64_t to, int64_t from, int64_t count) {
      copy(d, stage.statistics(chunk) + to, w.statistic_values.data() + from, size_t(count) * sizeof(float));
    });
    synchronize(d);
  });
}

std::vector<SafeTensors> Trainer::save() const {
  std::vector<SafeTensors> stages;
  for (const auto& stage : parts_->stages) stages.push_back(stage->save());
  return stages;
}

void Trainer::restore(const std::vector<SafeTensors>& stages) {
  if (stages.empty()) throw UsageError("the checkpoint has no stages");
  for (auto& stage : parts_->stages) stage->restore(stages);
}

int64_t Trainer::updates() const { return parts_->stages.back()->updates(); }
const Graph& Trainer::graph() const { return parts_->graph; }
const TrainerOptions& Trainer::options() const { return parts_->options; }
const std::vector<int>& Trainer::partition() const { return parts_->partition; }

std::vector<StageSummary> Trainer::summaries() {
  Parts& p = *parts_;
  std::vector<StageSummary> summaries;
  for (auto& stage : p.stages) {
    const StageReport report = stage->report();
    StageSummary s;
    for (const ParameterSpec& spec : stage->store().segments().specs) s.parameters += spec.count();
    s.copies = stage->copies(), s.frames = stage->frames();
    s.busy_share = p.train_seconds > 0 ? report.busy_seconds / p.train_seconds : 0;
    s.prediction_error = report.prediction.relative();
    s.skipped_updates = report.skipped_updates;
    s.memory = stage->memory();
    summaries.push_back(s);
  }
  for (const Piece& piece : p.layout->pieces()) summaries[size_t(piece.stage)].parts.push_back({piece.first_part, piece.parts});
  p.train_seconds = 0;
  return summaries;
}

}  // namespace pipecast
