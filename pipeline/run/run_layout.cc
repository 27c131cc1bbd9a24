#include "pipeline/run/run_layout.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include "layers/layer.h"
#include "pipeline/limits.h"
#include "pipeline/plan/audit.h"
#include "pipeline/plan/partition.h"

namespace pipecast {
namespace {

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
// summed in pieces, cost like thirty values each. On 2 x 2 pixels more than half of the kernel lies outside.
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

int TrainerOptions::threads_per_stage() const {
  return std::max(1, (threads > 0 ? threads : int(std::thread::hardware_concurrency())) / stages);
}

// Throws UsageError where a piece has a weight that is tied to one of another piece.
static void check_ties(const Graph& graph, const std::vector<int>& partition) {
  int part = 0;
  for (const int count : partition) {
    graph.check_ties(graph.parts()[size_t(part)].first, graph.parts()[size_t(part + count) - 1].last);
    part += count;
  }
}

RunLayout resolve(const Graph& graph, const TrainerOptions& o, std::vector<PassShape> batch_shapes) {
  if (!graph.loss())
    throw UsageError("model " + graph.name() + " has no loss: add one as its last layer, for example softmax_cross_entropy");
  if (o.batch < 1 || o.batch > most_batch)
    throw UsageError("the batch size is " + std::to_string(o.batch) + ": give 1 to " + std::to_string(most_batch));
  if (o.micro_batches < 1) throw UsageError("the number of micro-batches is " + std::to_string(o.micro_batches) + ": give at least 1");
  if (o.micro_batches > o.batch)
    throw UsageError("a mini-batch of " + std::to_string(o.batch) + " samples cannot be cut into " + std::to_string(o.micro_batches) +
                     " micro-batches: give a larger --batch, or fewer --micro-batches");
  check_stages(graph.parts().size(), o.stages);
  if (!(o.clip_norm >= 0) || !(o.synchronous_epochs >= 0) || !(o.rescale_epochs >= 0))
    throw UsageError("the norm to clip gradients to and the epochs of a synchronous beginning and of rescaling must not be negative");
  if (!(o.moving_average >= 0) || o.moving_average >= 1)
    throw UsageError("the decay of the moving average is " + std::to_string(o.moving_average) + ": it must be at least 0 and below 1");
  check_groups(graph.parameters(), o.groups);
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
  if (batch_shapes.empty()) batch_shapes = {PassShape(o.batch, o.length)};
  if (layout.partition.empty())
    layout.partition = pipecast::partition(estimated_costs(graph, {o.pass().samples, longest(batch_shapes)}), chunks * o.stages);
  layout.model.emplace(graph, layout.partition, layout.programs);
  check_ties(graph, layout.partition);
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
    s.groups = o.groups, s.moving_average = o.moving_average;
    s.clip_norm = o.clip_norm, s.non_finite = o.non_finite;
    s.seed = o.seed;
    s.cuda_graphs = o.cuda_graphs;
    layout.stages.push_back(std::move(s));
  }
  return layout;
}

void check_training(const Graph& graph, const std::vector<PassShape>& batches, int micro_batches) {
  for (const PassShape& pass : pass_shapes(batches, micro_batches)) {
    const std::vector<TensorSpec> specs = graph.specs(pass);
    for (const Node& node : graph.nodes())
      if (node.layer->compares_rows() && specs[size_t(node.inputs[0])].shape.rows() == 1)
        throw UsageError("layer '" + node.layer->name() + "' (" + node.layer->kind() +
                         ") has one value per channel in a pass of one sample, and no variance to train with: give a --batch that leaves no "
                         "single sample over, --drop-last, or fewer --micro-batches");
  }
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

}  // namespace pipecast
