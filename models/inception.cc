// Inception-V3 (Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision", table 1), as torchvision has it, with the
// names of its state_dict. Images of 299 x 299, or of 75 x 75 at least.
//
// The auxiliary classifier is left out, in training too; its tensors (AuxLogits) may be in files of weights and are not read. torchvision's
// own weights expect images normalised by a mean and a deviation of 0.5 (its transform_input).
#include "models/image_model.h"

namespace pipecast {
namespace {

class Inception {
 public:
  explicit Inception(const ModelOptions& options) : net_("inception_v3", options, 75) { net_.leave_out("AuxLogits."); }

  Graph build() && {
    Features x = stem("Conv2d_1a_3x3", net_.image(), {.out = 32, .kernel = 3, .stride = 2});
    x = stem("Conv2d_2a_3x3", x, {.out = 32, .kernel = 3});
    x = stem("Conv2d_2b_3x3", x, {.out = 64, .kernel = 3, .padding = 1});
    net_.part("maxpool1");
    x = net_.add(max_pool("maxpool1", halving), x);
    x = stem("Conv2d_3b_1x1", x, {.out = 80});
    x = stem("Conv2d_4a_3x3", x, {.out = 192, .kernel = 3});
    net_.part("maxpool2");
    x = net_.add(max_pool("maxpool2", halving), x);
    x = a("Mixed_5b", x, 32);
    x = a("Mixed_5c", x, 64);
    x = a("Mixed_5d", x, 64);
    x = b("Mixed_6a", x);
    x = c("Mixed_6b", x, 128);
    x = c("Mixed_6c", x, 160);
    x = c("Mixed_6d", x, 160);
    x = c("Mixed_6e", x, 192);
    x = d("Mixed_7a", x);
    x = e("Mixed_7b", x);
    x = e("Mixed_7c", x);
    net_.part("fc");
    x = net_.add(dropout("dropout", 0.5f), net_.add(global_average_pool("avgpool"), x));
    return std::move(net_).finish(net_.linear("fc", x, {.out = net_.classes(), .initial = Initial{Initial::normal, 0.1f}}));
  }

 private:
  static constexpr PoolOptions halving{.kernel = 3, .stride = 2};

  // A convolution, its batch norm and a ReLU.
  Features basic(const std::string& name, Features x, ConvolutionOptions o) {
    o.initial = {Initial::normal, 0.1f};
    return net_.norm(name + ".bn", net_.convolution(name + ".conv", x, o), {.epsilon = 1e-3f, .relu = true});
  }
  Features stem(const std::string& name, Features x, ConvolutionOptions o) {
    net_.part(name);
    return basic(name, x, o);
  }
  // A kernel of h x w that keeps the size of the image.
  Features same(const std::string& name, Features x, int64_t out, int64_t h, int64_t w) {
    return basic(name, x, {.out = out, .kernel = h, .kernel_w = w, .padding = h / 2, .padding_w = w / 2});
  }
  Features pooled(const std::string& prefix, Features x, int64_t out) {
    return same(prefix + "branch_pool", net_.add(average_pool(prefix + "pool", {.kernel = 3, .stride = 1, .padding = 1}), x), out, 1, 1);
  }
  std::string begin(const std::string& name) {
    net_.part(name);
    return name + ".";
  }

  // Figure 5: 35 x 35.
  Features a(const std::string& name, Features x, int64_t pool) {
    const std::string p = begin(name);
    const Features one = same(p + "branch1x1", x, 64, 1, 1);
    const Features five = same(p + "branch5x5_2", same(p + "branch5x5_1", x, 48, 1, 1), 64, 5, 5);
    const Features three = same(p + "branch3x3dbl_2", same(p + "branch3x3dbl_1", x, 64, 1, 1), 96, 3, 3);
    return net_.concatenation(name, {one, five, same(p + "branch3x3dbl_3", three, 96, 3, 3), pooled(p, x, pool)});
  }
  // To 17 x 17.
  Features b(const std::string& name, Features x) {
    const std::string p = begin(name);
    const Features three = basic(p + "branch3x3", x, {.out = 384, .kernel = 3, .stride = 2});
    const Features twice = same(p + "branch3x3dbl_2", same(p + "branch3x3dbl_1", x, 64, 1, 1), 96, 3, 3);
    return net_.concatenation(name, {three, basic(p + "branch3x3dbl_3", twice, {.out = 96, .kernel = 3, .stride = 2}),
                                     net_.add(max_pool(p + "pool", halving), x)});
  }
  // Figure 6: 17 x 17.
  Features c(const std::string& name, Features x, int64_t width) {
    const std::string p = begin(name);
    const Features one = same(p + "branch1x1", x, 192, 1, 1);
    Features seven = same(p + "branch7x7_2", same(p + "branch7x7_1", x, width, 1, 1), width, 1, 7);
    seven = same(p + "branch7x7_3", seven, 192, 7, 1);
    Features twice = same(p + "branch7x7dbl_2", same(p + "branch7x7dbl_1", x, width, 1, 1), width, 7, 1);
    twice = same(p + "branch7x7dbl_4", same(p + "branch7x7dbl_3", twice, width, 1, 7), width, 7, 1);
    twice = same(p + "branch7x7dbl_5", twice, 192, 1, 7);
    return net_.concatenation(name, {one, seven, twice, pooled(p, x, 192)});
  }
  // To 8 x 8.
  Features d(const std::string& name, Features x) {
    const std::string p = begin(name);
    const Features three = basic(p + "branch3x3_2", same(p + "branch3x3_1", x, 192, 1, 1), {.out = 320, .kernel = 3, .stride = 2});
    Features seven = same(p + "branch7x7x3_2", same(p + "branch7x7x3_1", x, 192, 1, 1), 192, 1, 7);
    seven = same(p + "branch7x7x3_3", seven, 192, 7, 1);
    seven = basic(p + "branch7x7x3_4", seven, {.out = 192, .kernel = 3, .stride = 2});
    return net_.concatenation(name, {three, seven, net_.add(max_pool(p + "pool", halving), x)});
  }
  // Figure 7: 8 x 8. The last convolutions of two branches lie side by side.
  Features e(const std::string& name, Features x) {
    const std::string p = begin(name);
    const Features one = same(p + "branch1x1", x, 320, 1, 1);
    const Features three = side_by_side(p + "branch3x3_2", same(p + "branch3x3_1", x, 384, 1, 1));
    const Features twice = same(p + "branch3x3dbl_2", same(p + "branch3x3dbl_1", x, 448, 1, 1), 384, 3, 3);
    return net_.concatenation(name, {one, three, side_by_side(p + "branch3x3dbl_3", twice), pooled(p, x, 192)});
  }
  Features side_by_side(const std::string& name, Features x) {
    const Features wide = same(name + "a", x, 384, 1, 3);
    return net_.concatenation(name, {wide, same(name + "b", x, 384, 3, 1)});
  }

  ImageModel net_;
};

}  // namespace

Graph inception_v3(const ModelOptions& options) { return Inception(options).build(); }

}  // namespace pipecast
