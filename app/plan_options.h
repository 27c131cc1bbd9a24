#pragma once
// Options of `plan` and `simulate`: the model, the pipeline and the machine to plan for.
#include <algorithm>
#include <string>

#include "app/training_options.h"
#include "models/models.h"
#include "pipeline/limits.h"
#include "pipeline/measure/plan.h"

namespace pipecast {

struct PlanOptions {
  std::string model = "resnet20", partition = "balanced", look_ahead = "paper", recompute = "never";
  int64_t image = 32, classes = 10, vocabulary = 0, samples = 0;
  bool cut_layers = false;
  TrainerOptions trainer;

  PlanOptions() {
    trainer.stages = 4;
    trainer.optimizer.name.clear();  // the method may have one
  }

  void declare(Options& o) {
    o.group("Model");
    o.text("model", model, "NAME", list_names(model_entries()));
    o.number("batch", trainer.batch, "N", "samples per mini-batch", 1, most_batch);
    o.number("samples", samples, "N", "training samples: what a short last mini-batch of an epoch needs is counted too; 0: none is short", 0,
             most_samples);
    o.number("image", image, "SIZE", "height and width of the images", 1, most_image_side);
    o.number("length", trainer.length, "N", "tokens of a text, where the model reads text", 1, most_length);
    o.number("vocabulary", vocabulary, "N", "size of the vocabulary; 0: the model's own", 0, most_vocabulary);
    o.number("classes", classes, "N", "classes of the model", 1, most_classes);
    o.text("optimizer", trainer.optimizer.name, "NAME", list(optimizer_names()) + optimizer_help);
    o.number("momentum", trainer.optimizer.momentum, "U", "sgd, rmsprop, muon", 0, 1);
    o.group("Pipeline");
    o.number("stages", trainer.stages, "N", "stages of the pipeline", 1, most_stages);
    o.text("partition", partition, "HOW", partition_help);
    o.flag("cut-layers", cut_layers, "stages may begin at any layer, not at a block only: the parts of a partition are then layers");
    o.text("method", trainer.method, "NAME", list_names(methods()));
    o.text("lookahead", look_ahead, "MODE", "formula of the weight prediction: " + list(look_ahead_modes()));
    o.number("micro-batches", trainer.micro_batches, "N", "micro-batches per mini-batch", 1, most_micro_batches);
    o.number("chunks", trainer.chunks, "N", "pieces of the model per stage; 0: as many as the method takes by itself", 0, most_chunks);
    o.text("recompute", recompute, "MODE", "activations made again for the backward: " + list(recompute_modes()) + " (of a mini-batch)");
    o.group("Machine");
    o.text("device", trainer.device, "NAME", "cpu or cuda");
    o.text("math", trainer.math, "NAME", "fp32; tf32: products on a GPU are faster and less exact; bf16: activations are stored in half the memory");
    o.number("threads", trainer.threads, "N", "threads on the host, shared among the stages; 0: all", 0, most_threads);
  }

  // Writes the options given as text into `trainer`. Throws UsageError with all mistakes.
  void resolve() {
    Mistakes mistakes;
    mistakes.check([&] { resolve_optimizer(trainer.optimizer, find_method(trainer.method)); });
    mistakes.check([&] { trainer.look_ahead = look_ahead_mode(look_ahead); });
    mistakes.check([&] { trainer.recompute = recompute_mode(recompute); });
    if (!trainer.optimizer.name.empty()) mistakes.check([&] { make_optimizer(trainer.optimizer); });
    mistakes.check([&] { DeviceOwner device(trainer.device, trainer.math); });  // whether there is such a device
    mistakes.check([&] { trainer.threads = threads_asked_for(trainer.threads); });
    mistakes.report();
  }

  // Builds the model, times its parts on this machine (unless memory_only) and plans. Call resolve() first.
  Plan plan(bool memory_only = false) {
    if (memory_only && partition == "measured") throw UsageError("--memory-only measures nothing: give --partition balanced or a list");
    const int64_t tokens = vocabulary > 0 ? vocabulary : model_entry(model).vocabulary;
    Graph graph = make_model(model, {.image = {1, image, image, 3}, .classes = classes, .vocabulary = tokens});
    if (cut_layers) graph.cut_parts_by_layer();
    if (samples > 0) trainer.batch = std::min(trainer.batch, samples);  // a mini-batch has no more samples than there are
    std::vector<PassShape> shapes = {PassShape(trainer.batch, trainer.length)};
    if (samples % trainer.batch > 0) shapes.push_back(PassShape(samples % trainer.batch, trainer.length));
    const bool listed = partition != "balanced" && partition != "measured";
    if (listed) trainer.partition = listed_partition(partition, graph, trainer.stages * chunks_of(find_method(trainer.method), trainer.chunks));
    if (memory_only) return plan_memory(graph, trainer, shapes);
    return make_plan(graph, trainer, partition == "measured" ? Balance::measured : Balance::estimated, shapes);
  }
};

}  // namespace pipecast
