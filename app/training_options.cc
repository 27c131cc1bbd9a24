#include "app/training_options.h"

#include <algorithm>

#include "data/batches.h"
#include "engine/format.h"
#include "pipeline/limits.h"
#include "pipeline/measure/measure.h"
#include "pipeline/plan/partition.h"
#include "pipeline/plan/program_file.h"

namespace pipecast {
namespace {

// Beyond these there is nothing but overflow: a run that is to diverge does so with less.
constexpr float most_rate = 1e10f, most_factor = 1000, most_value = 1e30f;

// "conv1,layer1." as conv1 and layer1
std::vector<std::string> names_of(const std::string& list) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    std::string name = list.substr(begin, end - begin);
    if (name.ends_with('.')) name.pop_back();
    names.push_back(name);
    begin = end + 1;
  }
  return names;
}

}  // namespace

TrainingOptions::TrainingOptions() {
  trainer.optimizer.name.clear();  // the method may have one
  trainer.optimizer.weight_decay = 5e-4f;
  trainer.schedule.name = "cosine";
}

void TrainingOptions::declare(Options& o) {
  OptimizerOptions& optimizer = trainer.optimizer;
  Schedule& schedule = trainer.schedule;
  o.group("Model and data");
  o.text("model", model, "NAME", list_names(model_entries()));
  o.text("weights", weights, "FILE", "start from these weights (safetensors), not from random ones");
  o.flag("allow-bad-values", allow_bad_values, bad_values_help);
  o.text("freeze", freeze, "LIST", "parameters that stay as they are: blocks or layers by name, as in conv1,layer1");
  o.text("data", data, "FORMAT:DIR", list_names(dataset_formats()) + "; pipecast info says what follows the colon");
  o.text("bad-samples", bad_samples, "WHAT", "fail: refuse a data set with damaged samples; skip: leave those out and count them");
  o.text("orientation", orientation, "WHAT", "of pictures whose EXIF data say that they are stored turned: ignore it, or apply it");
  o.number("image-size", image_size, "PIXELS", image_size_help, 0, most_image_size);
  o.number("resize", resize, "PIXELS", resize_help, 0, most_resize);
  o.number("cache", cache, "MEBIBYTES", cache_help, 0, most_cache);
  o.number("batch", trainer.batch, "N", "samples per mini-batch", 1, most_batch);
  o.number("batch-tokens", batch_tokens, "N",
           "of sequences: as many samples per mini-batch as have N positions, padding among them, at most --batch; 0: --batch", 0,
           most_batch);
  o.number("epochs", run.epochs, "N", "passes over the training samples", 1, most_epochs);
  o.text("augment", augment, "LIST", "of pictures in training: " + list(augmentation_names()) + "; as in crop,flip,cutout:8");
  o.flag("drop-last", drop_last, "leave out an epoch's last mini-batch where it is short, unless it is all there is");
  o.number("label-smoothing", label_smoothing, "SHARE", "share of the target spread over all classes", 0, 1);
  o.group("Pipeline");
  o.number("stages", trainer.stages, "N", "stages of the pipeline; 1 is plain training", 1, most_stages);
  o.text("partition", partition, "HOW", partition_help);
  o.flag("cut-layers", cut_layers, "stages may begin at any layer, not at a block only: the parts of a partition are then layers");
  o.text("method", trainer.method, "NAME", list_names(methods()));
  o.text("program", program, "FILE", "a program of your own in place of a method's (docs/program-files.md); it sets the number of stages");
  o.text("lookahead", look_ahead, "MODE", "how far to predict: " + list(look_ahead_modes()));
  o.number("micro-batches", trainer.micro_batches, "N", "micro-batches per mini-batch", 1, most_micro_batches);
  o.number("chunks", trainer.chunks, "N", "pieces of the model per stage, for interleaved; 0: as many as the method takes by itself", 0,
           most_chunks);
  o.text("recompute", recompute, "WHEN", "activations made again for the backward: " + list(recompute_modes()) + " (of a mini-batch)");
  o.flag("deferred-batch-norm", trainer.deferred_batch_norm, "running statistics are those of mini-batches, not of micro-batches");
  o.number("synchronous-epochs", trainer.synchronous_epochs, "N", "train synchronously first, may be a fraction", 0, most_epochs);
  o.flag("lag-rates", trainer.lag_rates, "divide each stage's learning rate by its lag");
  o.number("rescale-epochs", trainer.rescale_epochs, "N", "pipemare: epochs until all stages have the full learning rate", 0, most_epochs);
  o.group("Optimizer");
  o.text("optimizer", optimizer.name, "NAME", list(optimizer_names()) + optimizer_help);
  o.number("lr", schedule.rate, "RATE", "learning rate", 0, most_rate);
  o.number("momentum", optimizer.momentum, "U", "sgd, rmsprop, muon", 0, 1);
  o.number("dampening", optimizer.dampening, "D", "sgd: share of the gradient that momentum leaves out", 0, 1);
  o.flag("nesterov", optimizer.nesterov, "sgd: Nesterov momentum");
  o.number("weight-decay", optimizer.weight_decay, "C", "L2 for sgd, adam and rmsprop, decoupled for adamw, nadam and muon", 0, most_factor);
  o.text("no-decay", no_decay, "WHAT", "norms-and-biases: no weight decay for parameters of one dimension");
  o.number("beta1", optimizer.beta1, "B", "adam, adamw, nadam, muon's vectors: decay of the mean", 0, 1);
  o.number("beta2", optimizer.beta2, "B", "adam, adamw, nadam, muon's vectors: decay of the mean square", 0, 1);
  o.number("epsilon", optimizer.epsilon, "E", "added to the root of the mean square", 0, most_factor);
  o.number("momentum-decay", optimizer.momentum_decay, "PSI", "nadam", 0, most_factor);
  o.number("alpha", optimizer.alpha, "A", "rmsprop: decay of the mean square", 0, 1);
  o.number("clip-norm", trainer.clip_norm, "NORM", "scale gradients above this norm down to it (asynchronous: per stage); 0: none", 0,
           most_value);
  o.number("ema", trainer.moving_average, "DECAY",
           "test and export a moving average of the weights; its decay an update, as 0.999; 0: none", 0, 1);
  o.group("Learning rate");
  o.number("head-lr", trainer.groups.head_rate, "FACTOR", "learning rate of the layers that depend on the number of classes, times this", 0,
           most_factor);
  o.text("lr-schedule", schedule.name, "NAME", list(schedule_names()));
  o.number("warmup-epochs", schedule.warmup_epochs, "N", "linear warm-up, may be a fraction", 0, most_epochs);
  o.number("lr-step-epochs", schedule.step_epochs, "N", "step: epochs from one drop to the next", 0, most_epochs);
  o.numbers("lr-milestones", schedule.milestones, "LIST", "multi-step: epochs at which the rate drops, as in 60,80", 0, most_epochs);
  o.number("lr-gamma", schedule.gamma, "G", "step, multi-step: factor of a drop", 0, most_factor);
  o.number("lr-power", schedule.power, "P", "polynomial: the exponent", 0, most_factor);
  o.number("lr-final", schedule.final_rate, "RATE", "cosine, polynomial: rate at the end", 0, most_rate);
  o.group("Run");
  o.number("eval-every", run.eval_every, "EPOCHS", "epochs from one evaluation to the next; the pipeline drains for it", 1, most_epochs);
  o.number("patience", run.patience, "EPOCHS", "end at an evaluation so many epochs after the one with the best test accuracy; 0: never", 0,
           most_epochs);
  o.number("log-every", run.log_every, "N", "mini-batches from one line of metrics.jsonl to the next", 1, most_minibatches);
  o.number("checkpoint-every", run.checkpoint_every, "N", "mini-batches between checkpoints; 0: at evaluations only", 0, most_minibatches);
  o.number("checkpoint-keep", run.checkpoint_keep, "N", "checkpoints kept, beside the one with the best test accuracy", 1, 1000000);
  o.text("non-finite", non_finite, "HOW", "a loss or gradient that is not finite: stop the run before the update, or skip the update");
  o.number("stop-above", run.stop_above, "LOSS", "stop a run whose mean loss since the last line of metrics.jsonl is above; 0: never", 0,
           most_value);
  o.number("seed", trainer.seed, "N", "of initial weights, order, augmentation and dropout", 0, most_seed);
  o.text("device", trainer.device, "NAME", "cpu or cuda");
  o.text("math", trainer.math, "NAME", "fp32; tf32: products on a GPU are faster and less exact; bf16: activations are stored in half");
  o.flag("cuda-graphs", trainer.cuda_graphs, "record each pass on the GPU once and replay it");
  o.number("threads", trainer.threads, "N", "threads on the host, shared among the stages; 0: all", 0, most_threads);
  o.text("executor", trainer.executor, "NAME", list(executor_names()) + "; the numbers are the same");
}

TrainingInput TrainingOptions::resolve(bool resumed) {
  trainer.schedule.epochs = double(run.epochs);
  TrainingInput input;
  ModelOptions model_options;
  Mistakes mistakes;
  mistakes.check([&] { trainer.threads = threads_asked_for(trainer.threads); });
  const Method* method = nullptr;
  mistakes.check([&] { method = &find_method(trainer.method); });
  if (method) mistakes.check([&] { resolve_optimizer(trainer.optimizer, *method); });
  else if (trainer.optimizer.name.empty()) trainer.optimizer.name = "sgd";
  if (!program.empty()) mistakes.check([&] { resolve_program(); });
  mistakes.check([&] { trainer.look_ahead = look_ahead_mode(look_ahead); });
  mistakes.check([&] { trainer.recompute = recompute_mode(recompute); });
  mistakes.check([&] { trainer.non_finite = non_finite_mode(non_finite); });
  mistakes.check([&] { make_optimizer(trainer.optimizer); });
  mistakes.check([&] { trainer.schedule.validate(); });
  Augmentation augmentation;
  mistakes.check([&] { augmentation = parse_augmentation(augment); });
  mistakes.check([&] { DeviceOwner device(trainer.device, trainer.math); });
  const std::vector<std::string> executors = executor_names();
  if (std::find(executors.begin(), executors.end(), trainer.executor) == executors.end())
    mistakes.add(unknown_name("executor", trainer.executor, executors));
  mistakes.check([&] {
    input.dataset = load_dataset(data, {.bad_samples = bad_samples_mode(bad_samples),
                                        .orientation = orientation_mode(orientation),
                                        .image_size = image_size,
                                        .resize = resize,
                                        .cache = cache << 20});
    model_options = model_options_of(input.dataset);
    model_options.label_smoothing = label_smoothing;
    trainer.length = input.dataset.train->lengths().back();
    input.dataset.train->check(augmentation);
    model_options.mixup = augmentation.mixup > 0;
  });
  mistakes.check([&] { input.graph = make_model(model, model_options); });
  if (input.graph && input.dataset.train) mistakes.check([&] { check_columns(*input.graph, input.dataset); });
  if (input.dataset.train && batch_tokens > 0 && input.dataset.train->lengths() == std::vector<int64_t>{1})
    mistakes.add("--batch-tokens is for data sets of sequences, and " + input.dataset.name + " has none: give --batch only");
  if (input.graph && cut_layers) input.graph->cut_parts_by_layer();
  if (input.graph) mistakes.check([&] { resolve_groups(*input.graph, model_options); });
  if (input.graph && method) {
    const int chunks = !program.empty() ? pipecast::chunks(trainer.programs) : chunks_of(*method, trainer.chunks);
    mistakes.check([&] { resolve_partition(*input.graph, chunks * trainer.stages); });
  }
  if (input.graph && !weights.empty() && !resumed)
    mistakes.check([&] {
      input.start = read_start(weights, model, input.dataset.classes, bad_values(allow_bad_values), trainer.seed);
      check_tokens(*input.start, input.dataset);
    });
  mistakes.report();
  return input;
}

std::string left_out_of(const Dataset& dataset) {
  std::string lines = dataset.skipped > 0 ? format("%lld bad samples left out\n", (long long)(dataset.skipped)) : "";
  for (const std::string& note : dataset.notes) lines += note + "\n";
  return lines;
}

ModelOptions model_options_of(const Dataset& dataset) {
  ModelOptions options;
  if (dataset.classes > 0) options.classes = dataset.classes;
  if (dataset.image.count() > 1) options.image = dataset.image;
  if (dataset.vocabulary > 0) options.vocabulary = dataset.vocabulary;
  return options;
}

void check_columns(const Graph& graph, const Dataset& dataset) {
  const Batches batches(dataset.train, {});
  for (const InputSpec& input : graph.inputs()) batches.column(input);
}

void check_tokens(const NamedWeights& weights, const Dataset& dataset) {
  if (dataset.vocabulary > 0 && weights.options.vocabulary != dataset.vocabulary)
    throw UsageError("the weights are for " + std::to_string(weights.options.vocabulary) + " different tokens and the data set " + dataset.name +
                     " has " + std::to_string(dataset.vocabulary) + ": use the kind of data that they were trained on");
}

// What the file says of stages and micro-batches goes into the configuration.
void TrainingOptions::resolve_program() {
  trainer.programs = read_programs(program);
  trainer.stages = int(trainer.programs.size());
  trainer.micro_batches = 1;
  for (const Program& of_stage : trainer.programs)
    for (const Instruction& i : of_stage) trainer.micro_batches = std::max(trainer.micro_batches, i.micro + 1);
}

void resolve_optimizer(OptimizerOptions& optimizer, const Method& method) {
  if (optimizer.name.empty()) {
    optimizer.name = method.optimizer.empty() ? "sgd" : method.optimizer;
    if (method.beta1 > 0) optimizer.beta1 = method.beta1;
  }
  if (!method.optimizer.empty() && optimizer.name != method.optimizer)
    throw UsageError("method " + method.name + " is defined with the optimizer " + method.optimizer + ", not " + optimizer.name +
                     ": leave --optimizer out, or choose another method");
}

void TrainingOptions::resolve_groups(const Graph& graph, const ModelOptions& options) {
  GroupOptions& groups = trainer.groups;
  if (!no_decay.empty() && no_decay != "norms-and-biases")
    throw UsageError(unknown_name("exception from weight decay", no_decay, {"norms-and-biases"}));
  groups.decays_vectors = no_decay.empty();
  groups.frozen = names_of(freeze);
  if (groups.head_rate != 1) {
    groups.head = head_layers(model, options);
    if (groups.head.empty())
      throw UsageError("model " + model + " has no layer that depends on the number of classes: leave --head-lr out");
  }
  check_groups(graph.parameters(), groups);
}

void TrainingOptions::resolve_partition(const Graph& graph, int pieces) {
  if (partition == "balanced") {
    trainer.partition = pipecast::partition(estimated_costs(graph, trainer.pass()), pieces);
    return;
  }
  if (partition == "measured") {
    trainer.partition = pipecast::partition(measured_costs(graph, trainer), pieces);
    // What was measured goes into the configuration: another measurement might come out otherwise.
    partition.clear();
    for (int parts : trainer.partition) partition += (partition.empty() ? "" : ",") + std::to_string(parts);
    return;
  }
  trainer.partition = listed_partition(partition, graph, pieces);
}

std::vector<int> listed_partition(const std::string& option, const Graph& graph, int pieces) {
  if (option.find_first_not_of("0123456789,") != std::string::npos)
    throw UsageError(unknown_name("partition", option, {"balanced", "measured", "3,3,3,2"}));
  return parse_partition(option, int(graph.parts().size()), pieces);
}

std::string run_configuration(const Options& options) {
  return "# pipecast " PIPECAST_VERSION ": 'pipecast train --config FILE --out RUN' repeats this run.\n" + options.written_config();
}

}  // namespace pipecast
