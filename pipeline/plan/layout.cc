#include "pipeline/plan/layout.h"

#include <algorithm>
#include <map>
#include <string>

#include "engine/error.h"

namespace pipecast {

Borders borders(const Graph& graph, int first, int last) {
  const std::vector<Graph::Value>& values = graph.values();
  std::vector<bool> read_here(values.size()), read_later(values.size());
  for (int i = first; i < int(graph.nodes().size()); ++i)
    for (int v : graph.nodes()[size_t(i)].inputs) {
      if (i < last) read_here[size_t(v)] = true;
      else read_later[size_t(v)] = true;
    }
  if (!graph.nodes().empty()) read_later[size_t(graph.nodes().back().value)] = true;  // the model's output leaves the last piece

  Borders result;
  for (size_t v = 0; v < values.size(); ++v) {
    const int maker = values[v].node;
    if (maker < 0) {
      if (read_here[v]) result.fed.push_back(int(v));
      continue;
    }
    if (maker < first && read_here[v]) result.inputs.push_back(int(v));
    if (maker < last && (maker >= first || read_here[v]) && read_later[v]) result.outputs.push_back(int(v));
  }
  return result;
}

std::vector<SpecTable> spec_tables(const Graph& graph, const std::vector<PassShape>& passes, Storage activations) {
  std::vector<SpecTable> tables;
  const auto add = [&](const PassShape& pass) {
    for (const SpecTable& table : tables)
      if (table.pass == pass) return;
    tables.push_back({pass, graph.specs(pass)});
    for (TensorSpec& spec : tables.back().specs) spec = stored(spec, activations);
  };
  for (const PassShape& pass : passes) add(pass);
  for (const PassShape& pass : passes) add({0, pass.length});  // empty micro-batches
  return tables;
}

int64_t most_floats(const std::vector<SpecTable>& tables, int value) {
  int64_t most = 0;
  for (const SpecTable& table : tables) {
    const TensorSpec& spec = table.specs[size_t(value)];
    most = std::max(most, aligned(floats_of(spec.storage, spec.shape.count())));
  }
  return most;
}

Layout::Layout(const Graph& graph, const std::vector<int>& partition, const std::vector<Program>& programs) {
  const std::vector<Part>& parts = graph.parts();
  const int stages = int(programs.size()), chunks = pipecast::chunks(programs), pieces = stages * chunks;
  int given = 0;
  for (int count : partition) {
    if (count < 1) throw UsageError("the partition gives a piece " + std::to_string(count) + " parts: give each at least one");
    given += count;
  }
  if (int(partition.size()) != pieces || given != int(parts.size()))
    throw UsageError("the partition names " + std::to_string(given) + " parts in " + std::to_string(partition.size()) + " pieces; model " +
                     graph.name() + " has " + std::to_string(parts.size()) + " parts and the run " + std::to_string(stages) + " stages" +
                     (chunks > 1 ? " of " + std::to_string(chunks) + " chunks" : ""));
  int part = 0;
  for (int n = 0; n < pieces; ++n) {
    const int count = partition[size_t(n)];
    const Piece piece{.stage = n % stages, .chunk = n / stages, .first_part = part, .parts = count,
                      .first_node = parts[size_t(part)].first, .last_node = parts[size_t(part + count - 1)].last};
    pieces_.push_back(piece);
    part += count;
  }

  // Each value that a piece receives comes from the last one before it that has the value.
  std::vector<int> holders(graph.values().size(), 0);
  std::map<Skip, std::vector<int>> skipping;
  crossings_.resize(size_t(pieces));
  for (int n = 0; n < pieces; ++n) {
    const Borders crossing = borders(graph, pieces_[size_t(n)].first_node, pieces_[size_t(n)].last_node);
    for (int v : crossing.inputs) {
      const int from = holders[size_t(v)];
      if (from == n - 1) crossings_[size_t(n)].values.push_back(v);
      else skipping[{from, n}].push_back(v);
    }
    for (int v : crossing.outputs) holders[size_t(v)] = n;
  }
  std::vector<Skip> skips;
  for (auto& [skip, values] : skipping) skips.push_back(skip), crossings_.push_back({std::move(values), {}});
  const std::vector<TensorSpec> specs = graph.specs(PassShape(1));  // of any shape: which values have gradients is all that is read
  for (Crossing& crossing : crossings_)
    for (int v : crossing.values)
      if (graph.has_gradient(v, specs)) crossing.gradients.push_back(v);
  channels_.emplace(programs, std::move(skips));
}

int64_t Layout::message_bytes(int hop, bool gradients, const std::vector<TensorSpec>& specs) const {
  const Crossing& c = crossings_[size_t(hop)];
  int64_t bytes = 0;
  for (int v : gradients ? c.gradients : c.values) bytes += bytes_of(specs[size_t(v)].storage, specs[size_t(v)].shape.count());
  return bytes;
}

int64_t Layout::message_floats(int channel, const std::vector<SpecTable>& tables) const {
  const bool gradients = channels_->all()[size_t(channel)].gradients;
  int64_t most = 0;
  for (size_t hop = 1; hop < crossings_.size(); ++hop) {
    if (channels_->channel(int(hop), gradients) != channel) continue;
    int64_t floats = 0;
    for (int v : gradients ? crossings_[hop].gradients : crossings_[hop].values) floats += most_floats(tables, v);
    most = std::max(most, floats);
  }
  return most;
}

int64_t Layout::channel_floats(int channel, const std::vector<SpecTable>& tables) const {
  return channels_->all()[size_t(channel)].capacity * message_floats(channel, tables);
}

}  // namespace pipecast
