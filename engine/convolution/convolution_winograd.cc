// 3x3 convolutions of stride 1 on the host, by Winograd's minimal filtering F(4x4, 3x3): a tile of 4 x 4 outputs costs 36
// products per pair of channels instead of 144 (Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016).
//
// In one dimension a filter w of 3 taps slides over 6 inputs x and gives 4 outputs y. Seen as polynomials, y is read off the
// product of two others, and a product is known once it is known at 6 points: 0, a, -a, b, -b and infinity. The matrices B, G
// and A evaluate polynomials at these points and find them back. In two dimensions, for one tile and one pair of channels:
//
//   forward              y  = A' ((G w G') * (B' x B)) A        summed over the input channels
//   gradient of inputs   the same on dy: the filter turned by half a circle, input and output channels exchanged
//   gradient of weights  dw = G' ((A dy A') * (B' x B)) G       summed over all tiles
//
// where * multiplies element by element. Over all channels and a block of tiles that makes 36 matrix products, one per point,
// and nearly all of the arithmetic. With a = 5/8 and b = 3/2 the rounding error is about 1e-6 of the norm of the result.
#include <algorithm>

#include "engine/convolution/convolution.h"
#include "engine/launch.h"
#include "engine/vector.h"

namespace pipecast {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// A vector holds neighbouring channels. As many as one register holds are called a panel.

// x 2 vectors: the sums that the registers hold, see the matrix products.
constexpr int tile_rows = vector_registers == 32 ? 12 : 6, filter_rows = vector_registers == 32 ? 8 : 4;

// ---------------------------------------------------------------------------------------------------------------------
// The transforms: of one line, then of a square's columns and rows.

constexpr int64_t points = 36;
constexpr float a = 0.625f, b = 1.5f, a2 = a * a, b2 = b * b, a3 = a * a2, b3 = b * b2;
// One over the product of a point's distances to the other four.
constexpr float g0 = 1 / (a2 * b2), ga = 1 / (2 * a2 * (a2 - b2)), gb = 1 / (2 * b2 * (b2 - a2));

struct Input {  // B' x
  static constexpr int from = 6, to = 6;
  static void line(const Vector (&x)[6], Vector (&v)[6]) {
    const Vector even_a = x[4] - b2 * x[2], odd_a = a * (x[3] - b2 * x[1]), even_b = x[4] - a2 * x[2], odd_b = b * (x[3] - a2 * x[1]);
    v[0] = a2 * b2 * x[0] - (a2 + b2) * x[2] + x[4];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = a2 * b2 * x[1] - (a2 + b2) * x[3] + x[5];
  }
};

struct Filter {  // G w
  static constexpr int from = 3, to = 6;
  static void line(const Vector (&w)[3], Vector (&u)[6]) {
    const Vector even_a = ga * (w[0] + a2 * w[2]), odd_a = ga * a * w[1], even_b = gb * (w[0] + b2 * w[2]), odd_b = gb * b * w[1];
    u[0] = g0 * w[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = w[2];
  }
};

struct Output {  // A' m
  static constexpr int from = 6, to = 4;
  static void line(const Vector (&m)[6], Vector (&y)[4]) {
    const Vector even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = a * odd_a + b * odd_b;
    y[2] = a2 * even_a + b2 * even_b;
    y[3] = a3 * odd_a + b3 * odd_b + m[5];
  }
};

struct OutputGradient {  // A dy
  static constexpr int from = 4, to = 6;
  static void line(const Vector (&y)[4], Vector (&m)[6]) {
    const Vector even_a = y[0] + a2 * y[2], odd_a = a * y[1] + a3 * y[3], even_b = y[0] + b2 * y[2], odd_b = b * y[1] + b3 * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
  }
};

struct FilterGradient {  // G' u
  static constexpr int from = 6, to = 3;
  static void line(const Vector (&u)[6], Vector (&w)[3]) {
    const Vector even_a = ga * (u[1] + u[2]), even_b = gb * (u[3] + u[4]);
    w[0] = g0 * u[0] + even_a + even_b;
    w[1] = ga * a * (u[1] - u[2]) + gb * b * (u[3] - u[4]);
    w[2] = a2 * even_a + b2 * even_b + u[5];
  }
};

// A square of vectors in memory: the distances, in floats, to the vector below and to the one on the right.
template <class T>
struct Square {
  T* first;
  int64_t below, right;
  T* at(int64_t i, int64_t j) const { return first + i * below + j * right; }
};

// How the vectors of one panel of channels are read: as they are, or normalised.
struct Plainly {
  explicit Plainly(const Normalised*, int64_t) {}
  Vector operator()(const float* from) const { return load(from); }
};
struct Normalising {
  Vector mean, scale, shift;
  Normalising(const Normalised* n, int64_t c) : mean(load(n->mean + c)), scale(load(n->scale + c)), shift(load(n->shift + c)) {}
  Vector operator()(const float* from) const {
    const Vector v = (load(from) - mean) * scale + shift, zero = {};
    return v < 0 ? zero : v;
  }
};

// And how they are written.
struct Assigning {
  static void write(float* to, Vector v) { store(to, v); }
};
struct Adding {
  static void write(float* to, Vector v) { store(to, load(to) + v); }
};

template <class Transform, class Read = Plainly, class Write = Assigning>
inline void transform(Square<const float> in, Square<float> out, const Read& read = Read(nullptr, 0)) {
  constexpr int from = Transform::from, to = Transform::to;
  Vector half[to][from];
  for (int j = 0; j < from; ++j) {
    Vector before[from], after[to];
    for (int i = 0; i < from; ++i) before[i] = read(in.at(i, j));
    Transform::line(before, after);
    for (int i = 0; i < to; ++i) half[i][j] = after[i];
  }
  for (int i = 0; i < to; ++i) {
    Vector after[to];
    Transform::line(half[i], after);
    for (int j = 0; j < to; ++j) Write::write(out.at(i, j), after[j]);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tiles. A block of them is transformed at once, to block[point][panel][tile][lane].

struct Tiling {
  int64_t down, across, count, block;  // tiles of an image, tiles of the batch, tiles of a block

  struct Place {
    int64_t image, top, left;
  };
  Place place(int64_t tile) const { return {tile / (down * across), tile / across % down * 4, tile % across * 4}; }

  int64_t panel() const { return block * lanes; }
  // From one point to the next. An odd number of vectors, so that points do not fight for the same lines of the cache.
  int64_t point(int64_t channels) const { return block * channels + lanes; }
};

// Transforms the window of the images at `place` to where `tile` is in its block. Outside the image there is zero.
template <class Transform, class Read = Plainly>
inline void gather(const Tiling& tiling, const Shape& s, const float* images, const Tiling::Place& place, float* tile,
                   const Normalised* normalised = nullptr) {
  constexpr int64_t size = Transform::from;
  const auto [image, top, left] = place;
  const int64_t first_row = std::max<int64_t>(0, -top), end_row = std::min(size, s.h - top);
  const int64_t first_column = std::max<int64_t>(0, -left), end_column = std::min(size, s.w - left);
  const bool inside = first_row == 0 && end_row == size && first_column == 0 && end_column == size;
  const int64_t below = s.w * s.c, point = tiling.point(s.c);
  const float* from = images + (image * s.h + top) * below + left * s.c;
  for (int64_t c = 0; c < s.c; c += lanes, from += lanes, tile += tiling.panel()) {
    const Read read(normalised, c);
    // What the next row of tiles will need: memory is far away.
    for (int64_t i = size - 4; i < size; ++i)
      for (int64_t j = 0; j < 4; ++j) __builtin_prefetch(from + (i + 4) * below + j * s.c);
    if (inside) {
      transform<Transform>({from, below, s.c}, {tile, 6 * point, point}, read);
    } else {
      Vector window[size][size] = {};
      for (int64_t i = first_row; i < end_row; ++i)
        for (int64_t j = first_column; j < end_column; ++j) window[i][j] = read(from + i * below + j * s.c);
      transform<Transform>({reinterpret_cast<const float*>(window), size * lanes, lanes}, {tile, 6 * point, point});
    }
  }
}

// Transforms a tile of a block to the 4 x 4 outputs at `place`, as far as they are inside the image.
template <class Write>
inline void spread(const Tiling& tiling, const Shape& s, const float* tile, const Tiling::Place& place, float* images) {
  const auto [image, top, left] = place;
  const int64_t rows = std::min<int64_t>(4, s.h - top), columns = std::min<int64_t>(4, s.w - left);
  const int64_t below = s.w * s.c, point = tiling.point(s.c);
  float* to = images + (image * s.h + top) * below + left * s.c;
  for (int64_t c = 0; c < s.c; c += lanes, to += lanes, tile += tiling.panel()) {
    if (rows == 4 && columns == 4) {
      transform<Output, Plainly, Write>({tile, 6 * point, point}, {to, below, s.c});
    } else {
      Vector window[4][4];
      transform<Output>({tile, 6 * point, point}, {reinterpret_cast<float*>(window), 4 * lanes, lanes});
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) Write::write(to + i * below + j * s.c, window[i][j]);
    }
  }
}

// Brings the 4 x 4 outputs that spread() will write near. Always inline: g++ drops calls of a function that only prefetches.
__attribute__((always_inline)) inline void expect(const Shape& s, const Tiling::Place& place, const float* images) {
  const auto [image, top, left] = place;
  const float* to = images + ((image * s.h + top) * s.w + left) * s.c;
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t c = 0; c < 4 * s.c; c += 16) __builtin_prefetch(to + i * s.w * s.c + c, 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// The matrix products of one point. Sums of R rows and Q vectors stay in registers.

// R tiles, Q panels of output channels: m[q][tile] = sum over input channels c of v[c / lanes][tile][c % lanes] * u[q][c].
template <int R, int Q>
inline void multiply(int64_t channels, int64_t panel, const float* v, const float* u, float* m) {
  Vector sum[R][Q] = {};
  for (int64_t c = 0; c < channels; c += lanes, v += panel)
    for (int64_t lane = 0; lane < lanes; ++lane, u += lanes) {
      Vector filter[Q];
      for (int q = 0; q < Q; ++q) filter[q] = load(u + q * channels * lanes);
      for (int r = 0; r < R; ++r)
        for (int q = 0; q < Q; ++q) sum[r][q] += v[r * lanes + lane] * filter[q];
    }
  for (int q = 0; q < Q; ++q)
    for (int r = 0; r < R; ++r) store(m + q * panel + r * lanes, sum[r][q]);
}

// R output channels, Q panels of input channels: du[r][q] (+)= sum over tiles of m[tile][r] * v[q][tile].
template <int R, int Q>
inline void multiply_gradient(int64_t tiles, int64_t panel, const float* m, const float* v, bool add, float* du, int64_t width) {
  Vector sum[R][Q] = {};
  for (int64_t t = 0; t < tiles; ++t, m += lanes, v += lanes) {
    Vector input[Q];
    for (int q = 0; q < Q; ++q) input[q] = load(v + q * panel);
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < Q; ++q) sum[r][q] += m[r] * input[q];
  }
  // A block is summed by itself before it is added: that keeps the rounding error of long sums small.
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) {
      float* to = du + r * width + q * lanes;
      store(to, add ? load(to) + sum[r][q] : sum[r][q]);
    }
}

// ---------------------------------------------------------------------------------------------------------------------

// The tiles are dealt to as many workers as there are threads when the plan is made. Workspace: transformed filters (one per
// worker for their gradient), then for each worker a block of inputs and one of outputs.
class Convolution : public ConvolutionPlan {
 public:
  explicit Convolution(const ConvolutionShape& shape)
      : in_(shape.in), out_(shape.out()), padding_(shape.padding_h), filter_(points * in_.c * out_.c), workers_(threads()) {
    // As many tiles as keep a worker's blocks within 256 KiB, a part of a core's second cache.
    const int64_t fitting = (256 << 10) / int64_t(points * (in_.c + out_.c) * sizeof(float));
    block_ = std::clamp<int64_t>(fitting / tile_rows, 2, 8) * tile_rows;
    blocks_ = points * (block_ * (in_.c + out_.c) + 2 * lanes);
  }

  int64_t workspace() const override { return workers_ * (filter_ + blocks_); }

  void forward(Device, const float* x, const float* weight, float* y, float* workspace) override {
    transform_filters(weight, workspace);
    convolve<Plainly, Assigning>(in_, x, nullptr, padding_, workspace, out_, y);
  }
  bool takes_normalised() const override { return true; }
  void forward_normalised(Device, const float* x, const Normalised& normalised, const float* weight, float* y, float* workspace) override {
    transform_filters(weight, workspace);
    convolve<Normalising, Assigning>(in_, x, &normalised, padding_, workspace, out_, y);
  }

  void backward_input(Device, const float* dy, const float* weight, float* dx, bool add, float* workspace) override {
    const int64_t inputs = in_.c, outputs = out_.c, point = inputs * outputs;
    parallel(inputs / lanes, grain(lanes * outputs), [=](int64_t begin, int64_t end) {
      for (int64_t c = begin * lanes; c < end * lanes; c += lanes)
        for (int64_t k = 0; k < outputs; ++k) {
          // From the last tap backwards: that turns the filter.
          transform<Filter>({weight + (k * 9 + 8) * inputs + c, -3 * inputs, -inputs},
                            {workspace + c * outputs + k * lanes, 6 * point, point});
        }
    });
    if (add) convolve<Plainly, Adding>(out_, dy, nullptr, 2 - padding_, workspace, in_, dx);
    else convolve<Plainly, Assigning>(out_, dy, nullptr, 2 - padding_, workspace, in_, dx);
  }

  void backward_weight(Device, const float* x, const float* dy, float* dweight, float* workspace) override {
    weight_gradient<Plainly>(x, nullptr, dy, dweight, workspace);
  }
  void backward_weight_normalised(Device, const float* x, const Normalised& normalised, const float* dy, float* dweight,
                                  float* workspace) override {
    weight_gradient<Normalising>(x, &normalised, dy, dweight, workspace);
  }

  std::string implementation() const override { return "winograd, winograd, winograd"; }

 private:
  // Rows of filters that are worth a thread.
  static int64_t grain(int64_t row) { return std::max<int64_t>(1, 2048 / row); }

  Tiling tile(const Shape& out) const {
    const int64_t down = (out.h + 3) / 4, across = (out.w + 3) / 4;
    return {down, across, out.n * down * across, block_};
  }

  // Workspace begins with the transformed filters: for each point [panel of outputs][input channel][lane].
  void transform_filters(const float* weight, float* workspace) const {
    const int64_t inputs = in_.c, outputs = out_.c, point = inputs * outputs;
    parallel(outputs / lanes, grain(lanes * inputs), [=](int64_t begin, int64_t end) {
      for (int64_t k = begin * lanes; k < end * lanes; k += lanes)
        for (int64_t c = 0; c < inputs; ++c) {
          float taps[9][lanes];  // one vector of output channels each
          for (int64_t lane = 0; lane < lanes; ++lane)
            for (int64_t tap = 0; tap < 9; ++tap) taps[tap][lane] = weight[((k + lane) * 9 + tap) * inputs + c];
          transform<Filter>({taps[0], 3 * lanes, lanes}, {workspace + k * inputs + c * lanes, 6 * point, point});
        }
    });
  }

  template <class Read>
  void weight_gradient(const float* x, const Normalised* normalised, const float* dy, float* dweight, float* workspace) const {
    const Tiling tiling = tile(out_);
    const int64_t inputs = in_.c, outputs = out_.c;
    parallel(workers_, 1, [=, this](int64_t first, int64_t last) {
      for (int64_t worker = first; worker < last; ++worker) {
        float* du = workspace + worker * filter_;
        float* v = workspace + workers_ * filter_ + worker * blocks_;
        float* m = v + points * tiling.point(inputs);
        const int64_t start = tiling.count * worker / workers_, end = tiling.count * (worker + 1) / workers_;
        if (start == end) std::fill_n(du, filter_, 0.f);
        for (int64_t begin = start; begin < end; begin += tiling.block) {
          const int64_t tiles = std::min(tiling.block, end - begin);
          for (int64_t t = 0; t < tiles; ++t) {
            const auto [image, top, left] = tiling.place(begin + t);
            gather<Input, Read>(tiling, in_, x, {image, top - padding_, left - padding_}, v + t * lanes, normalised);
            gather<OutputGradient>(tiling, out_, dy, {image, top, left}, m + t * lanes);
          }
          for (int64_t p = 0; p < points; ++p)
            add_products(tiling, tiles, m + p * tiling.point(outputs), v + p * tiling.point(inputs), begin != start,
                         du + p * inputs * outputs);
        }
      }
    });
    parallel(outputs, grain(inputs), [=, this](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        for (int64_t c = 0; c < inputs; c += lanes) {
          float sums[points][lanes], taps[9][lanes];
          for (int64_t p = 0; p < points; ++p) {
            const float* du = workspace + (p * outputs + k) * inputs + c;
            Vector sum = load(du);
            for (int64_t worker = 1; worker < workers_; ++worker) sum += load(du + worker * filter_);
            store(sums[p], sum);
          }
          transform<FilterGradient>({sums[0], 6 * lanes, lanes}, {taps[0], 3 * lanes, lanes});
          for (int64_t tap = 0; tap < 9; ++tap) {
            float* to = dweight + (k * 9 + tap) * inputs + c;
            store(to, load(to) + load(taps[tap]));
          }
        }
    });
  }

  // Workspace begins with the transformed filters: for each point [panel of `to`][channel of `from`][lane].
  template <class Read, class Write>
  void convolve(const Shape& from, const float* x, const Normalised* normalised, int64_t padding, float* workspace, const Shape& to,
                float* y) const {
    const Tiling tiling = tile(to);
    parallel(workers_, 1, [=, this](int64_t first, int64_t last) {
      for (int64_t worker = first; worker < last; ++worker) {
        float* v = workspace + filter_ + worker * blocks_;
        float* m = v + points * tiling.point(from.c);
        const int64_t end = tiling.count * (worker + 1) / workers_;
        for (int64_t begin = tiling.count * worker / workers_; begin < end; begin += tiling.block) {
          const int64_t tiles = std::min(tiling.block, end - begin);
          for (int64_t t = 0; t < tiles; ++t) {
            const auto [image, top, left] = tiling.place(begin + t);
            expect(to, {image, top, left}, y);
            gather<Input, Read>(tiling, from, x, {image, top - padding, left - padding}, v + t * lanes, normalised);
          }
          for (int64_t p = 0; p < points; ++p)
            products(tiling, tiles, from.c, v + p * tiling.point(from.c), workspace + p * from.c * to.c, to.c, m + p * tiling.point(to.c));
          for (int64_t t = 0; t < tiles; ++t) spread<Write>(tiling, to, m + t * lanes, tiling.place(begin + t), y);
        }
      }
    });
  }

  // Takes whole rows of the block: what is behind the last tile is left from before, and spread() does not read its products.
  static void products(const Tiling& tiling, int64_t tiles, int64_t channels, const float* v, const float* u, int64_t width, float* m) {
    int64_t k = 0;
    for (; k + 2 * lanes <= width; k += 2 * lanes)
      for (int64_t t = 0; t < tiles; t += tile_rows)
        multiply<tile_rows, 2>(channels, tiling.panel(), v + t * lanes, u + k * channels, m + tiling.block * k + t * lanes);
    if (k == width) return;
    for (int64_t t = 0; t < tiles; t += tile_rows)
      multiply<tile_rows, 1>(channels, tiling.panel(), v + t * lanes, u + k * channels, m + tiling.block * k + t * lanes);
  }

  void add_products(const Tiling& tiling, int64_t tiles, const float* m, const float* v, bool add, float* du) const {
    const int64_t width = in_.c;
    // Output channel k is in lane k % lanes of its panel.
    const auto row = [&](int64_t k) { return m + k / lanes * tiling.panel() + k % lanes; };
    int64_t c = 0;
    for (; c + 2 * lanes <= width; c += 2 * lanes)
      for (int64_t k = 0; k < out_.c; k += filter_rows)
        multiply_gradient<filter_rows, 2>(tiles, tiling.panel(), row(k), v + tiling.block * c, add, du + k * width + c, width);
    if (c == width) return;
    for (int64_t k = 0; k < out_.c; k += lanes)
      multiply_gradient<lanes, 1>(tiles, tiling.panel(), row(k), v + tiling.block * c, add, du + k * width + c, width);
  }

  Shape in_, out_;
  int64_t padding_, filter_, workers_;  // filter_: floats of the transformed filters
  int64_t block_, blocks_;              // tiles of a block; floats of a block of inputs and one of outputs
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_winograd(Device d, const ConvolutionShape& s) {
  const bool suits = s.kernel_h == 3 && s.kernel_w == 3 && s.stride == 1 && s.padding_h == s.padding_w && s.padding_h <= 2 &&
                     s.dilation == 1 && s.groups == 1 && s.in.c % lanes == 0 && s.out_channels % lanes == 0;
  if (d.gpu || !suits) return nullptr;
  return std::make_unique<Convolution>(s);
}

}  // namespace pipecast
