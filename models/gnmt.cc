// GNMT (Wu et al. 2016, "Google's neural machine translation system") as PipeDream and NVIDIA have it, whose names the parameters have.
//
//   encoder   embedding, an LSTM in both directions, an LSTM from both to `hidden`, then LSTMs with a shortcut around each
//   decoder   embedding, an LSTM whose outputs ask for attention to the encoder's, then LSTMs that read the one before them and the
//             attention's answer side by side, from the second of these on with a shortcut; a linear layer
//
// Unlike in the paper, attention reads the first decoder LSTM of the same position, so that it is no part of a recurrence: all positions
// are computed at once. Dropout is on the input of each LSTM but those that read an embedding, as in PipeDream's stages. Each LSTM ends at
// its sample's length. The published stages of GNMT-8 begin with the parts encoder.embedder, encoder.rnn_layers.2, decoder.rnn_layers.0 and
// decoder.rnn_layers.2; those of GNMT-16 with encoder.embedder, encoder.rnn_layers.5, decoder.rnn_layers.1 and decoder.rnn_layers.5.
#include "engine/error.h"
#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {
namespace {

constexpr Initial uniform{Initial::uniform, 0.1f};

class Gnmt {
 public:
  explicit Gnmt(const GnmtOptions& options)
      : options_(options), graph_(options.name), tokens_(input("tokens", true)), length_(input("length", false)) {}

  Graph build() && {
    const int encoded = encoder();
    const int attended = decoder(encoded);
    graph_.part("decoder.classifier");
    const LinearOptions out{.in = options_.hidden, .out = options_.vocabulary, .initial = uniform, .bias_initial = uniform};
    const int logits = graph_.add(linear("decoder.classifier.classifier", out), {attended});
    graph_.add(softmax_cross_entropy("loss", {.label_smoothing = options_.label_smoothing}), {logits, input("target", true)});
    return std::move(graph_);
  }

 private:
  int input(const std::string& name, bool sequence) { return graph_.input({name, {{1, 1, 1, 1}, Storage::int32}, sequence}); }

  int embed(const std::string& name, int tokens) {
    return graph_.add(embedding(name, {.vocabulary = options_.vocabulary, .features = options_.hidden, .initial = uniform}), {tokens});
  }
  int recur(const std::string& name, int x, int64_t in, int length, bool both = false) {
    const LstmOptions made{.in = in,
                           .hidden = options_.hidden,
                           .bidirectional = both,
                           .initial = uniform,
                           .bias_initial = uniform,
                           .hidden_bias_initial = Initial{}};
    return graph_.add(lstm(name, made), {x, length});
  }
  int drop(const std::string& name, int x) { return graph_.add(dropout(name + ".dropout", options_.dropout), {x}); }
  int shortcut(const std::string& name, int x, int before) { return graph_.add(add(name + ".shortcut"), {x, before}); }

  int encoder() {
    const int64_t hidden = options_.hidden;
    graph_.part("encoder.embedder");
    int x = embed("encoder.embedder", tokens_);
    for (int k = 0; k < options_.layers; ++k) {
      const std::string name = "encoder.rnn_layers." + std::to_string(k);
      graph_.part(name);
      if (k == 0) {
        x = recur(name, x, hidden, length_, true);
        continue;
      }
      const int y = recur(name, drop(name, x), k == 1 ? 2 * hidden : hidden, length_);
      x = k == 1 ? y : shortcut(name, y, x);
    }
    return x;
  }

  int decoder(int encoded) {
    const int64_t hidden = options_.hidden;
    const LinearOptions projection{.in = hidden, .out = hidden, .bias = false, .initial = uniform};
    graph_.part("decoder.att_rnn");
    const int target_length = input("target_length", false);
    int x = recur("decoder.att_rnn.rnn", embed("decoder.embedder", input("target_in", true)), hidden, target_length);
    const int query = graph_.add(linear("decoder.att_rnn.attn.linear_q", projection), {x});
    const int key = graph_.add(linear("decoder.att_rnn.attn.linear_k", projection), {encoded});
    const int context =
        graph_.add(bahdanau_attention("decoder.att_rnn.attn", {.features = hidden}), {query, key, encoded, length_, target_length});
    for (int k = 0; k + 1 < options_.layers; ++k) {
      const std::string name = "decoder.rnn_layers." + std::to_string(k);
      graph_.part(name);
      const int both = graph_.add(concatenation(name + ".input"), {drop(name, x), context});
      const int y = recur(name, both, 2 * hidden, target_length);
      x = k == 0 ? y : shortcut(name, y, x);
    }
    return x;
  }

  GnmtOptions options_;
  Graph graph_;
  int tokens_, length_;
};

}  // namespace

Graph gnmt(const GnmtOptions& options) {
  if (options.layers < 3 || options.hidden < 1)
    throw UsageError(options.name + " cannot have " + std::to_string(options.layers) + " layers of " + std::to_string(options.hidden) +
                     " units: give at least 3 layers of 1 unit");
  return Gnmt(options).build();
}

}  // namespace pipecast
