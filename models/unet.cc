// The simplified U-Net (Ronneberger, Fischer and Brox, "U-Net: Convolutional networks for biomedical image segmentation", 2015) that
// torchgpipe measures pipelines with (Kim et al., "torchgpipe", 2020, section 4.3): five levels down and up, B blocks a level, C channels
// in the first. A block is a 3x3 convolution, dropout of channels, instance norm and leaky ReLU. What a level made before its pooling skips
// all deeper levels, and so the stages that they are on. The logits are those of every pixel.
//
// Names are those of torchgpipe's flattened model; it has one output for each pixel where this has one for each class.
#include "models/image_model.h"

namespace pipecast {
namespace {

constexpr int levels = 5;

class UNet {
 public:
  UNet(const std::string& name, const ModelOptions& options, int blocks) : net_(name, options, 2 << levels), blocks_(blocks) {
    x_ = net_.image();
  }

  // The blocks of a level, to `out` channels by way of `middle`. first_part: whether they begin a part, as the first of a level does not
  // where something stands before it.
  void cell(const std::string& name, int64_t middle, int64_t out, bool first_part = true) {
    for (int b = 0; b < blocks_; ++b) {
      const std::string block = name + "_" + std::to_string(b);
      if (b > 0 || first_part) net_.part(block);
      const int64_t channels = b + 1 < blocks_ ? middle : out;
      // As PyTorch begins a convolution that is told nothing else.
      const Initial initial{Initial::uniform, 1 / std::sqrt(9 * float(x_.channels))};
      x_ = net_.convolution(block + "_conv", x_, {.out = channels, .kernel = 3, .padding = 1, .initial = initial});
      x_ = net_.add(channel_dropout(block + "_dropout", .1f), x_);
      x_ = net_.add(instance_norm(block + "_norm", {.channels = channels, .slope = .01f}), x_);
    }
  }
  void down(int level, int64_t channels) {
    const std::string name = "encoder_" + std::to_string(level);
    cell(name + "_encode", channels, channels);
    skips_.push_back(x_);
    x_ = net_.add(max_pool(name + "_down", {}), x_);
  }
  // h, w: of the images at this level. Where they are odd, what comes from below is a pixel smaller, and zeros fill it up.
  void up(int level, int64_t h, int64_t w, int64_t channels) {
    const std::string name = "decoder_" + std::to_string(levels - 1 - level);
    net_.part(name + "_decode_0");
    x_ = net_.add(upsample(name + "_up", {.factor = 2, .h = h, .w = w}), x_);
    x_ = net_.concatenation(name + "_skip", {x_, skips_[size_t(level)]});
    cell(name + "_decode", channels, channels, false);
  }
  Graph segment() && {
    net_.part("segment");
    const Initial initial{Initial::uniform, 1 / std::sqrt(float(x_.channels))};
    x_ = net_.convolution("segment", x_, {.out = net_.classes(), .initial = initial});
    return std::move(net_).finish_pixels(x_);
  }

 private:
  ImageModel net_;
  int blocks_;
  Features x_;
  std::vector<Features> skips_;
};

}  // namespace

Graph unet(int blocks, int64_t channels, const ModelOptions& options) {
  const std::string name = "unet_" + std::to_string(blocks) + "x" + std::to_string(channels);
  if (blocks < 1 || channels < 2 || channels % 2 != 0)
    throw UsageError(name + " has no shape: give at least 1 block a level, and an even number of channels");
  UNet net(name, options, blocks);
  for (int level = 0; level < levels; ++level) net.down(level, channels << level);
  net.cell("bottleneck_0", channels << levels, channels << (levels - 1));
  for (int level = levels - 1; level >= 0; --level)
    net.up(level, options.image.h >> level, options.image.w >> level, (channels << level) / 2);
  return std::move(net).segment();
}

}  // namespace pipecast
