// Convolutions on the host as matrix products, one for each tap of the kernel: the pixels that the tap reads, gathered as rows, times
// its weights, added to the pixels that it goes to.
//
// What lies around the image is left out where other algorithms multiply zeros: of 3 x 3 taps over a 2 x 2 image 16 of 36 products
// are left. And the products keep their speed when a batch is small, because nothing but pixels is ever rearranged.
#include <algorithm>
#include <vector>

#include "engine/convolution/convolution.h"
#include "engine/gemm.h"
#include "engine/launch.h"
#include "engine/memory.h"

namespace pipecast {
namespace {

using Pixels = std::vector<int64_t>;  // of one image, in ascending order

struct Tap {
  int64_t index;   // in the kernel, row by row
  Pixels in, out;  // the pairs of pixels that it joins
};

// The largest first: of stride 1 it is the one that joins every pixel with itself, and nothing need be gathered or added for it.
std::vector<Tap> taps_of(const ConvolutionShape& s) {
  std::vector<Tap> taps;
  for (int64_t r = 0; r < s.kernel_h; ++r)
    for (int64_t t = 0; t < s.kernel_w; ++t) {
      Tap tap{r * s.kernel_w + t, {}, {}};
      for (int64_t p = 0; p < s.out_h(); ++p)
        for (int64_t q = 0; q < s.out_w(); ++q) {
          const int64_t h = p * s.stride + r * s.dilation - s.padding_h, w = q * s.stride + t * s.dilation - s.padding_w;
          if (h < 0 || h >= s.in.h || w < 0 || w >= s.in.w) continue;
          tap.in.push_back(h * s.in.w + w), tap.out.push_back(p * s.out_w() + q);
        }
      if (!tap.in.empty()) taps.push_back(std::move(tap));
    }
  std::stable_sort(taps.begin(), taps.end(), [](const Tap& a, const Tap& b) { return a.in.size() > b.in.size(); });
  return taps;
}

bool all(const Pixels& pixels, const Shape& s) { return int64_t(pixels.size()) == s.h * s.w; }

// The pixels of all images as rows without gaps: where they lie, or a copy of them.
const float* gather(const float* images, const Shape& s, const Pixels& pixels, float* copy) {
  if (all(pixels, s)) return images;
  const int64_t count = int64_t(pixels.size());
  parallel(s.n, std::max<int64_t>(1, 16384 / (count * s.c)), [&, count](int64_t begin, int64_t end) {
    float* to = copy + begin * count * s.c;
    for (int64_t image = begin; image < end; ++image)
      for (int64_t pixel : pixels) to = std::copy_n(images + (image * s.h * s.w + pixel) * s.c, s.c, to);
  });
  return copy;
}

// The images are these rows where they have such pixels, and zero elsewhere.
void put(const float* rows, const Shape& s, const Pixels& pixels, float* images) {
  const int64_t count = int64_t(pixels.size());
  parallel(s.n, std::max<int64_t>(1, 16384 / (s.h * s.w * s.c)), [&, count](int64_t begin, int64_t end) {
    const float* from = rows + begin * count * s.c;
    for (int64_t image = begin; image < end; ++image) {
      float *to = images + image * s.h * s.w * s.c, *const behind = to + s.h * s.w * s.c;
      for (int64_t pixel : pixels) {
        float* const place = images + (image * s.h * s.w + pixel) * s.c;
        std::fill(to, place, 0.f);
        to = std::copy_n(from, s.c, place);
        from += s.c;
      }
      std::fill(to, behind, 0.f);
    }
  });
}

void add(const float* rows, const Shape& s, const Pixels& pixels, float* images) {
  const int64_t count = int64_t(pixels.size());
  parallel(s.n, std::max<int64_t>(1, 16384 / (count * s.c)), [&, count](int64_t begin, int64_t end) {
    const float* from = rows + begin * count * s.c;
    for (int64_t image = begin; image < end; ++image)
      for (int64_t pixel : pixels) {
        float* to = images + (image * s.h * s.w + pixel) * s.c;
        for (int64_t c = 0; c < s.c; ++c) to[c] += from[c];
        from += s.c;
      }
  });
}

// Workspace: rows of inputs, then rows of outputs, of the largest tap.
class TapConvolution : public ConvolutionPlan {
 public:
  explicit TapConvolution(const ConvolutionShape& s)
      : in_(s.in), out_(s.out()), filter_(s.kernel_h * s.kernel_w * s.in.c), taps_(taps_of(s)) {
    const int64_t rows = taps_.empty() ? 0 : s.in.n * int64_t(taps_.front().in.size());
    in_rows_ = aligned(rows * in_.c), out_rows_ = aligned(rows * out_.c);
  }

  int64_t workspace() const override { return in_rows_ + out_rows_; }

  void forward(Device, const float* x, const float* weight, float* y, float* workspace) override {
    convolve(x, in_, &Tap::in, workspace, true, weight, y, out_, &Tap::out, workspace + in_rows_, false);
  }
  void backward_input(Device, const float* dy, const float* weight, float* dx, bool add, float* workspace) override {
    convolve(dy, out_, &Tap::out, workspace + in_rows_, false, weight, dx, in_, &Tap::in, workspace, add);
  }
  void backward_weight(Device, const float* x, const float* dy, float* dweight, float* workspace) override {
    for (const Tap& tap : taps_) {
      const float *inputs = gather(x, in_, tap.in, workspace), *outputs = gather(dy, out_, tap.out, workspace + in_rows_);
      gemm(Device{}, true, false, out_.c, in_.c, in_.n * int64_t(tap.in.size()), outputs, inputs, 1, dweight + tap.index * in_.c,
           {out_.c, in_.c, filter_});
    }
  }
  std::string implementation() const override { return "taps, taps, taps"; }

 private:
  // to (+)= sum over the taps of the pixels in `from`, times the tap's weights or these transposed.
  void convolve(const float* from, const Shape& from_shape, Pixels Tap::*read, float* from_rows, bool transpose, const float* weight,
                float* to, const Shape& to_shape, Pixels Tap::*written, float* to_rows, bool adds) const {
    if (taps_.empty() && !adds) put(nullptr, to_shape, {}, to);
    for (const Tap& tap : taps_) {
      const bool direct = all(tap.*written, to_shape), assigns = !adds && &tap == &taps_.front();
      gemm(Device{}, false, transpose, from_shape.n * int64_t(tap.in.size()), to_shape.c, from_shape.c,
           gather(from, from_shape, tap.*read, from_rows), weight + tap.index * in_.c, direct && !assigns ? 1 : 0, direct ? to : to_rows,
           {from_shape.c, filter_, to_shape.c});
      if (!direct) (assigns ? put : add)(to_rows, to_shape, tap.*written, to);
    }
  }

  Shape in_, out_;
  int64_t filter_;  // floats of one output channel's weights
  std::vector<Tap> taps_;
  int64_t in_rows_, out_rows_;
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_taps(Device d, const ConvolutionShape& s) {
  if (d.gpu || s.groups != 1) return nullptr;
  return std::make_unique<TapConvolution>(s);
}

}  // namespace pipecast
