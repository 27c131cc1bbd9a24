#include "pipeline/run/source.h"

#include <algorithm>

#include "engine/round.h"

namespace pipecast {

Source::Source(Device device, const Graph& graph, const Section& section) : device_(device), values_(section.fed()), uploaded_(device) {
  int64_t wide = 0;
  for (int v : values_) {
    inputs_.push_back(graph.input_of(v));
    for (const SpecTable& table : section.plan().tables)
      if (table.specs[size_t(v)].storage == Storage::bf16) wide = std::max(wide, table.specs[size_t(v)].shape.count());
  }
  if (wide > 0) wide_ = Memory(device, wide);
  if (section.means() == 0) return;
  loss_ = &graph.nodes().back();
  x_.resize(loss_->inputs.size());
  counts_.resize(size_t(section.means()));
  scale_ = HostMemory(device, 1);
}

void Source::begin(const Batches& batches, int64_t begin, int64_t end) {
  loader_.reset();  // before the next one takes memory
  if (!empty()) loader_ = std::make_unique<Loader>(batches, inputs_, begin, end, device_);
}

void Source::next() {
  if (empty()) return;
  uploaded_.wait();
  minibatch_ = loader_->next();
  counted_ = false;
}

void Source::load(const Section& section, int frame, int64_t first_sample, const PassShape& pass) {
  if (empty()) return;
  if (loss_) {
    if (!counted_) {
      count(section, pass, 0, minibatch_.samples);
      scale_.data()[0] = counts_[0] > 0 ? 1.f / float(counts_[0]) : 0;  // nothing is counted where all labels are ignored
      counted_ = true;
    }
    count(section, pass, first_sample, pass.samples);
    copy(device_, section.scale(frame), scale_.data(), sizeof(float));
  }
  if (pass.samples > 0)
    for (size_t k = 0; k < values_.size(); ++k) copy_column(k, section.value(frame, values_[k], pass), first_sample);
  uploaded_.set(device_);
}

void Source::copy_column(size_t k, const Tensor& to, int64_t first_sample) {
  const Tensor column = loader_->column(k);
  const int64_t per_sample = column.shape.count() / column.shape.n;
  const float* from = static_cast<const float*>(column.data) + first_sample * per_sample;  // of 4 bytes, as every type on the host
  const bool rounds = to.storage == Storage::bf16;
  copy(device_, rounds ? wide_.data() : to.data, from, size_t(to.shape.count()) * sizeof(float));
  if (rounds) round(device_, to.shape.count(), wide_.data(), to.as<Bfloat16>());
}

// What the loss is a mean over in some samples of the mini-batch, into counts_.
void Source::count(const Section& section, const PassShape& pass, int64_t first_sample, int64_t samples) {
  const std::vector<TensorSpec>& specs = section.plan().specs(pass);
  for (size_t j = 0; j < x_.size(); ++j) {
    const int value = loss_->inputs[j];
    x_[j] = {nullptr, specs[size_t(value)].shape.batch(samples), specs[size_t(value)].storage};
    const auto fed = std::find(values_.begin(), values_.end(), value);
    if (fed == values_.end()) continue;
    const Tensor column = loader_->column(size_t(fed - values_.begin()));
    x_[j] = {static_cast<float*>(column.data) + first_sample * (column.shape.count() / column.shape.n), column.shape.batch(samples),
             column.storage};
  }
  loss_->layer->count(x_, counts_.data());
}

}  // namespace pipecast
