#pragma once
// The options that say which run is planned, shared by the commands that measure it without training.
#include <string>

#include "app/training_options.h"
#include "models/models.h"
#include "pipeline/limits.h"
#include "pipeline/measure/plan.h"

namespace pipecast {

struct PlanChoice {
  std::string model = "resnet20", partition = "balanced", look_ahead = "paper", recompute = "never";
  int64_t image = 32, classes = 10, vocabulary = ModelOptions().vocabulary, samples = 0;
  bool cut_layers = false;
  TrainerOptions trainer;

  PlanChoice() { trainer.stages = 4; }

  void declare(Options& o) {
    o.group("Model");
    o.text("model", model, "NAME", list_names(model_entries()));
    o.number("batch", trainer.batch, "N", "samples per mini-batch", 1, most_batch);
    o.number("samples", samples, "N", "training samples: an epoch's last mini-batch may be short, with memory of its own; 0: all are full", 0,
             most_samples);
    o.number("image", image, "SIZE", "height and width of the images", 1, most_image_side);
    o.number("length", trainer.length, "N", "tokens of a text, where the model reads text", 1, most_length);
    o.number("vocabulary", vocabulary, "N", "tokens that there are", 1, most_vocabulary);
    o.number("classes", classes, "N", "classes of the model", 1, most_classes);
    o.text("optimizer", trainer.optimizer.name, "NAME", list(optimizer_names()));
    o.number("momentum", trainer.optimizer.momentum, "U", "sgd", 0, 1);
    o.group("Pipeline");
    o.number("stages", trainer.stages, "N", "stages of the pipeline", 1, most_stages);
    o.text("partition", partition, "HOW", "balanced, measured, or the parts per stage as in 3,3,3,2");
    o.flag("cut-layers", cut_layers, "stages may begin at any layer, not at a block only: the parts of a partition are then layers");
    o.text("method", trainer.method, "NAME", list_names(methods()));
    o.text("lookahead", look_ahead, "MODE", "how far to predict: " + list(look_ahead_modes()));
    o.number("micro-batches", trainer.micro_batches, "N", "micro-batches per mini-batch", 1, most_micro_batches);
    o.number("chunks", trainer.chunks, "N", "pieces of the model per stage; 0: as many as the method takes by itself", 0, most_chunks);
    o.text("recompute", recompute, "MODE", "forwards that are computed again: " + list(recompute_modes()));
    o.group("Machine");
    o.text("device", trainer.device, "NAME", "cpu or cuda");
    o.text("math", trainer.math, "NAME", "fp32, tf32 on a GPU, or bf16: activations are stored in half");
    o.number("threads", trainer.threads, "N", "threads on the host, shared among the stages; 0: all", 0, most_threads);
  }

  // What the names say, into `trainer`. Throws UsageError for those that are not known.
  void resolve() {
    Mistakes mistakes;
    mistakes.check([&] { find_method(trainer.method); });
    mistakes.check([&] { trainer.look_ahead = look_ahead_mode(look_ahead); });
    mistakes.check([&] { trainer.recompute = recompute_mode(recompute); });
    mistakes.check([&] { make_optimizer(trainer.optimizer); });
    mistakes.check([&] { DeviceOwner device(trainer.device, trainer.math); });
    mistakes.check([&] { trainer.threads = threads_asked_for(trainer.threads); });
    mistakes.report();
  }

  // Measures. After resolve().
  Plan plan() {
    Graph graph = make_model(model, {.image = {1, image, image, 3}, .classes = classes, .vocabulary = vocabulary});
    if (cut_layers) graph.cut_parts_by_layer();
    std::vector<PassShape> shapes;
    if (samples == 0 || samples >= trainer.batch) shapes.push_back(PassShape(trainer.batch, trainer.length));
    if (samples % trainer.batch > 0) shapes.push_back(PassShape(samples % trainer.batch, trainer.length));
    if (partition == "measured") return make_plan(graph, trainer, Balance::measured, shapes);
    if (partition != "balanced") {
      const int chunks = trainer.chunks > 0 ? trainer.chunks : find_method(trainer.method).chunks;
      trainer.partition = listed_partition(partition, graph, trainer.stages * chunks);
    }
    return make_plan(graph, trainer, Balance::estimated, shapes);
  }
};

}  // namespace pipecast
