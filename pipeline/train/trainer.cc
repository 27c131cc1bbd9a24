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
#include "pipeline/run/transport/local.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The shapes of all passes: mini-batches cut into micro-batches.
std::vector<PassShape> pass_shapes(const std::vector<PassShape>& batches, int micro_batches) {
  std::set<PassShape> shapes;
  for (const PassShape& batch : batches)
    for (int m = 0; m < micro_batches; ++m) {
      const int64_t samples = batch.samples * (m + 1) / micro_batches - batch.samples * m / micro_batches;
      if (samples > 0) shapes.insert(PassShape(samples, batch.length));  // braces alone would be a list of two
    }
  return {shapes.begin(), shapes.end()};
}

int64_t longest(const std::vector<PassShape>& batches) {
  int64_t length = 1;
  for (const PassShape& batch : batches) length = std::max(length, batch.length);
  return length;
}

// Copies the segments of a stage out of, or into, the model's flat buffer; `next` walks the model's segments.
template <class Copy>
void each_segment(const Segments& stage, const Segments& model, size_t& next, const Copy& copy) {
  for (size_t k = 0; k < stage.specs.size(); ++k, ++next) copy(stage.offsets[k], model.offsets[next], stage.specs[k].count());
}

// What a run of mini-batches is trained by.
std::vector<Program> programs_of(const TrainerOptions& o, Setting setting, int64_t updates_per_epoch) {
  if (!o.programs.empty()) {
    const int64_t length = minibatches(o.programs);
    std::vector<Program> programs(o.programs.size());
    for (size_t k = 0; k < programs.size(); ++k)
      for (int64_t begin = 0; begin < setting.minibatches; begin += length) append(programs[k], o.programs[k], begin);
    return programs;
  }
  setting.stages = o.stages, setting.micro_batches = o.micro_batches, setting.look_ahead = o.look_ahead;
  setting.chunks = o.chunks, setting.recompute = o.recompute;
  setting.synchronous = std::llround(o.synchronous_epochs * double(updates_per_epoch));
  setting.rescale = std::llround(o.rescale_epochs * double(updates_per_epoch));
  setting.lag_rates = o.lag_rates;
  return make_programs(find_method(o.method), setting);
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

// What a stage can carry out.
void check(const std::vector<Program>& programs, const TrainerOptions& o) {
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(o.optimizer);
  for (const Program& program : programs) {
    bool adding = false;  // a gradient is being added up
    for (const Instruction& i : program) {
      const std::string by = o.programs.empty() ? "method " + o.method : "the program file";
      if (makes_prediction(i.operation) && i.ahead > max_look_ahead)
        throw UsageError(by + " predicts " + std::to_string(i.ahead) + " updates ahead; at most " + std::to_string(max_look_ahead) +
                         " are possible: use fewer stages or another method");
      if (is_step(i.operation) && i.late > 0 && !optimizer->compensates())
        throw UsageError(by + " compensates for the delay of gradients, which optimizer " + o.optimizer.name +
                         " does not know how to do: use sgd with momentum, adam or adamw");
      if (i.micro >= o.micro_batches)
        throw UsageError(by + " has micro-batch " + std::to_string(i.micro) + " and the run " + std::to_string(o.micro_batches) +
                         " of them: give --micro-batches " + std::to_string(i.micro + 1));
      if (is_backward(i.operation)) adding = true;
      if (is_step(i.operation)) adding = false;
      if (i.operation == Operation::predict && i.ahead > 0 && adding && optimizer->looks_at_gradient(o.look_ahead))
        throw UsageError(by + " predicts between the backwards of one update, when the gradient is not whole, and " + o.optimizer.name +
                         " with look-ahead " + to_string(o.look_ahead) + " reads it: use another look-ahead");
    }
  }
}

// Of the forward and both gradients of a layer, at rates of a common host core, of which only the proportions matter. `bench layers`
// shows what they are like: every value is moved once in each of the three. A 3x3 convolution of whole vectors of channels goes by
// Winograd's algorithm in a third of the time of a direct one, but its weights, transformed on their way and with gradients that are
// summed in pieces, cost like thirty values each. On images of 2 x 2 more than half of the kernel lies outside.
double estimated_seconds(const Layer& layer, const std::vector<TensorSpec>& x, const Shape& y, bool wants_gradient) {
  constexpr double flops_per_second = 120e9, bytes_per_second = 10e9;
  double moved = double(y.count()), speed = 1;
  for (const TensorSpec& input : x) moved += double(input.shape.count());
  for (const ParameterSpec& spec : layer.parameters()) {
    const bool is_kernel = spec.shape.size() == 4 && spec.shape[1] == 3 && spec.shape[2] == 3 && spec.shape[3] >= 16 && y.h == x[0].shape.h;
    const bool is_winograd = is_kernel && y.h >= 3;
    moved += (is_winograd ? 10 : 1) * double(spec.count());
    if (is_kernel) speed = is_winograd ? 3 : 2;
  }
  const double seconds = layer.flops(x) / (speed * flops_per_second) + moved * sizeof(float) / bytes_per_second;
  return (wants_gradient ? 3 : 2) * seconds;
}

// A recorded pass is repeated with the arguments of the first.
void check_recordable(const Graph& graph, const TrainerOptions& o) {
  if (o.device != "cuda") throw UsageError("CUDA graphs are recorded on a GPU, not on device '" + o.device + "': leave --cuda-graphs out");
  if (o.deferred_batch_norm)
    throw UsageError(
        "deferred batch norm counts the samples before each micro-batch, which a recorded pass cannot: leave "
        "--cuda-graphs out");
  for (const Node& node : graph.nodes())
    if (node.layer->reads_step())
      throw UsageError("layer '" + node.layer->name() + "' (" + node.layer->kind() +
                       ") does something else in every pass, which a recorded pass cannot: leave --cuda-graphs out");
}

}  // namespace

struct Trainer::Parts {
  Graph graph;
  TrainerOptions options;
  std::vector<int> partition = {};
  std::optional<Layout> layout = {};
  std::unique_ptr<Optimizer> optimizer = nullptr;
  std::vector<std::unique_ptr<DeviceOwner>> devices = {};
  std::vector<std::unique_ptr<Link>> links = {};
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

int TrainerOptions::threads_per_stage() const {
  return std::max(1, (threads > 0 ? threads : int(std::thread::hardware_concurrency())) / stages);
}

RunLayout resolve(const Graph& graph, const TrainerOptions& o, std::vector<PassShape> batch_shapes) {
  if (!graph.loss())
    throw UsageError("model " + graph.name() + " has no loss: add one as its last layer, for example softmax_cross_entropy");
  if (o.batch < 1) throw UsageError("the batch size is " + std::to_string(o.batch) + ": give at least 1");
  if (o.micro_batches < 1) throw UsageError("the number of micro-batches is " + std::to_string(o.micro_batches) + ": give at least 1");
  if (o.stages < 1) throw UsageError("the number of stages is " + std::to_string(o.stages) + ": give at least 1");
  if (!(o.clip_norm >= 0) || !(o.synchronous_epochs >= 0) || !(o.rescale_epochs >= 0))
    throw UsageError("the norm to clip gradients to and the epochs of a synchronous beginning and of rescaling must not be negative");
  if (o.cuda_graphs) check_recordable(graph, o);
  find_method(o.method);
  o.schedule.validate();
  if (!o.programs.empty()) {
    if (int(o.programs.size()) != o.stages)
      throw UsageError("the program file has " + std::to_string(o.programs.size()) + " stages and the run " + std::to_string(o.stages));
    audit(o.programs);
  }

  RunLayout layout;
  // Frames and copies do not grow any more once the pipeline is full.
  Setting setting;
  setting.minibatches = o.programs.empty() ? 4 * o.stages + 4 : minibatches(o.programs);
  layout.programs = programs_of(o, setting, 0);
  check(layout.programs, o);
  const int chunks = pipecast::chunks(layout.programs);
  layout.partition = o.partition;
  if (layout.partition.empty())
    layout.partition = pipecast::partition(estimated_costs(graph, {o.pass(), longest(batch_shapes)}), chunks * o.stages);
  layout.model.emplace(graph, layout.partition, layout.programs);
  if (batch_shapes.empty()) batch_shapes = {o.batch};
  for (int k = 0; k < o.stages; ++k) {
    const Program& program = layout.programs[size_t(k)];
    StageOptions s;
    s.index = k;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const Piece& piece = layout.model->piece(k, chunk);
      s.chunks.push_back({piece.first_node, piece.last_node, std::max(1, frames_needed(program, chunk)), inputs_needed(program, chunk)});
    }
    s.passes = pass_shapes(batch_shapes, o.micro_batches);
    s.activations = activation_storage(o.math);
    s.micro_batches = o.micro_batches;
    s.predicts = predicts(program), s.looks_back = looks_back(program), s.stash_slots = stash_slots(program);
    s.splits_backward = splits_backward(program), s.deferred_batch_norm = o.deferred_batch_norm;
    s.look_ahead = o.look_ahead;
    s.schedule = o.schedule;
    s.clip_norm = o.clip_norm, s.non_finite = o.non_finite;
    s.seed = o.seed;
    s.cuda_graphs = o.cuda_graphs;
    layout.stages.push_back(std::move(s));
  }
  return layout;
}

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
    s.channels = &p.layout->channels();
    s.optimizer = p.optimizer.get();
    s.all_norms = p.norms.get();
    p.stages.push_back(std::make_unique<Stage>(p.graph, s));
    stages.push_back(p.stages.back().get());
  }
  set_threads(before);
  p.connect();
  auto stop = [&p] {
    for (auto& link : p.links) link->close();
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

// A link for every channel.
void Trainer::Parts::connect() {
  const std::vector<SpecTable>& tables = stages.front()->section().plan().tables;
  const std::vector<Channel>& channels = layout->channels().all();
  for (size_t c = 0; c < channels.size(); ++c) {
    const Channel& channel = channels[c];
    // In memory of the stage before the border, in both directions.
    const Device d = devices[size_t(channel.gradients ? channel.to : channel.from)]->get();
    links.push_back(local_link(d, layout->message_floats(int(c), tables), channel.capacity));
    Stage &from = *stages[size_t(channel.from)], &to = *stages[size_t(channel.to)];
    (channel.gradients ? from.gradients_out : from.activations_out) = links.back().get();
    (channel.gradients ? to.gradients_in : to.activations_in) = links.back().get();
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
  Setting setting;
  setting.minibatches = end - begin, setting.done = begin;
  p.programs = programs_of(p.options, setting, data.per_epoch());
  p.updates = updates_before_loss(p.programs, p.options.micro_batches);
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
  Parts& p = *parts_;
  p.programs.clear();
  Setting setting;
  setting.stages = p.options.stages, setting.micro_batches = p.options.micro_batches;
  setting.chunks = int(p.partition.size()) / p.options.stages;
  for (int k = 0; k < p.options.stages; ++k) p.programs.push_back(evaluation_program(setting, data.per_epoch(), k));
  Feed feed;
  feed.training = false;
  if (prediction) {
    prediction->clear();
    feed.on_prediction = [prediction](const Tensor& t) {
      prediction->insert(prediction->end(), t.as<float>(), t.as<float>() + t.shape.count());
    };
  }
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
      copy(d, w.parameter_values.data() + to, stage.latest(chunk) + from, size_t(count) * sizeof(float));
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

std::vector<double> estimated_costs(const Graph& graph, const PassShape& pass) {
  const std::vector<TensorSpec> specs = graph.specs(pass);
  std::vector<double> costs;
  for (const Part& part : graph.parts()) {
    double seconds = 0;
    for (int i = part.first; i < part.last; ++i) {
      const Node& node = graph.nodes()[size_t(i)];
      if (!node.layer->means().empty()) continue;
      std::vector<TensorSpec> x;
      bool wants_gradient = false;
      for (int v : node.inputs) x.push_back(specs[size_t(v)]), wants_gradient |= graph.has_gradient(v, specs);
      seconds += estimated_seconds(*node.layer, x, specs[size_t(node.value)].shape, wants_gradient);
    }
    costs.push_back(seconds);
  }
  return costs;
}

std::vector<double> measured_costs(const Graph& graph, const TrainerOptions& o) {
  const int threads = o.threads_per_stage();
  std::vector<double> costs = measure_part_updates(graph, *make_optimizer(o.optimizer), o.look_ahead, o.device, threads);
  const std::vector<PartSeconds> passes = measure_parts(graph, o.pass(), o.device, o.math, threads, o.stages, false);
  for (size_t part = 0; part < costs.size(); ++part) costs[part] += o.micro_batches * (passes[part].forward + passes[part].backward);
  return costs;
}

}  // namespace pipecast
