#include "engine/convolution/convolution.h"

#ifdef PIPECAST_ONEDNN
#include <dnnl_debug.h>

#include <algorithm>
#include <array>
#include <dnnl.hpp>

#include "engine/launch.h"
#include "engine/memory.h"
#endif

namespace pipecast {

#ifdef PIPECAST_ONEDNN
namespace {

using dnnl::memory;
using Forward = dnnl::convolution_forward;
using BackwardInput = dnnl::convolution_backward_data;
using BackwardWeight = dnnl::convolution_backward_weights;

constexpr auto direct = dnnl::algorithm::convolution_direct;
constexpr auto f32 = memory::data_type::f32;

void check(dnnl_status_t status, std::source_location where = std::source_location::current()) {
  if (status != dnnl_success) fail("oneDNN", dnnl_status2str(status), where);
}

// The host as oneDNN sees it. It has no state: a plan may run in another thread than the one that made it.
const dnnl::engine& host() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// A primitive takes its scratch memory from the workspace; else the library would keep some for every thread.
dnnl::primitive_attr caller_scratch() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Layouts

memory::desc images(const Shape& s) { return {{s.n, s.c, s.h, s.w}, f32, memory::format_tag::nhwc}; }

// Weights as the library counts them: O, I, H, W, and G before them where there are groups.
memory::dims weight_sizes(const ConvolutionShape& s) {
  if (s.groups == 1) return {s.out_channels, s.in.c, s.kernel_h, s.kernel_w};
  return {s.groups, s.out_channels / s.groups, s.in.c / s.groups, s.kernel_h, s.kernel_w};
}

// Weights as they are stored: O x H x W x I/G.
memory::desc weights(const ConvolutionShape& s) {
  const int64_t width = s.in.c / s.groups, filter = s.kernel_h * s.kernel_w * width;
  memory::dims strides = {filter, 1, s.kernel_w * width, width};
  if (s.groups > 1) strides.insert(strides.begin(), s.out_channels / s.groups * filter);
  return {weight_sizes(s), f32, strides};
}

// The layout of the weights decides which implementation is chosen. `any` leaves it to the library, which knows best; its
// "ref" implementations alone are a thousand times slower than the others. In that case H x W x I x O, for matrix products.
template <class Describe>
auto not_reference(const ConvolutionShape& s, const Describe& describe) {
  using Tag = memory::format_tag;
  const auto slow = [](const auto& description) { return std::string(description.impl_info_str()).starts_with("ref"); };
  auto chosen = describe(memory::desc(weight_sizes(s), f32, Tag::any));
  if (!slow(chosen)) return chosen;
  auto other = describe(memory::desc(weight_sizes(s), f32, s.groups == 1 ? Tag::hwio : Tag::hwigo));
  return slow(other) ? chosen : other;
}

// ---------------------------------------------------------------------------------------------------------------------
// The two versions of the library

// What a convolution is, but for the layout of its weights.
struct Problem {
  memory::desc x, y, any_weights;
  memory::dims strides, dilation, padding;  // dilation counts from 0

  explicit Problem(const ConvolutionShape& s)
      : x(images(s.in)),
        y(images(s.out())),
        any_weights(weight_sizes(s), f32, memory::format_tag::any),
        strides(2, s.stride),
        dilation(2, s.dilation - 1),
        padding{s.padding_h, s.padding_w} {}

  Forward::primitive_desc forward(const memory::desc& w) const {
    constexpr auto kind = dnnl::prop_kind::forward_training;
#if DNNL_VERSION_MAJOR < 3
    return {{kind, direct, x, w, y, strides, dilation, padding, padding}, caller_scratch(), host()};
#else
    return {host(), kind, direct, x, w, y, strides, dilation, padding, padding, caller_scratch()};
#endif
  }

  // Direction: BackwardInput or BackwardWeight. The library wants to know which forward it belongs to.
  template <class Direction>
  typename Direction::primitive_desc backward(const memory::desc& w) const {
    const Forward::primitive_desc hint = forward(any_weights);
#if DNNL_VERSION_MAJOR < 3
    return {{direct, x, w, y, strides, dilation, padding, padding}, caller_scratch(), host(), hint};
#else
    return {host(), direct, x, w, y, strides, dilation, padding, padding, hint, caller_scratch()};
#endif
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Execution. All objects of the library are made once and pointed at the data of each call.

void point(memory& object, const float* data) {
  void* handle = const_cast<float*>(data);
  if (object.get_data_handle() != handle) object.set_data_handle(handle);
}

// A primitive and its scratch memory.
class Work {
 public:
  Work() = default;
  template <class Description>
  explicit Work(const Description& description) : primitive_(description.get()), scratch_(description.scratchpad_desc(), host(), nullptr) {}

  int64_t scratch() const { return int64_t(scratch_.get_desc().get_size() / sizeof(float)); }

  template <size_t N>
  void run(const dnnl::stream& stream, float* scratch, const dnnl_exec_arg_t (&arguments)[N]) {
    point(scratch_, scratch);
    dnnl_exec_arg_t all[N + 1] = {};
    std::copy_n(arguments, N, all);
    all[N] = {DNNL_ARG_SCRATCHPAD, scratch_.get()};
    check(dnnl_primitive_execute(primitive_.get(), stream.get(), int(N + 1), all));
  }

 private:
  dnnl::primitive primitive_;
  memory scratch_;
};

// A tensor that a primitive reads or writes. Where the library's layout is not ours, a copy in the workspace is.
class Operand {
 public:
  enum Role { read, assigned, accumulated };

  Operand(Role role, int argument, const memory::desc& ours, const memory::desc& theirs)
      : role_(role),
        argument_(argument),
        moved_(role == accumulated || ours != theirs),
        ours_(ours, host(), nullptr),
        theirs_(theirs, host(), nullptr) {
    if (!moved_) return;
    dnnl::primitive_attr attributes = caller_scratch();
    if (role == accumulated) {
      dnnl::post_ops sum;
      sum.append_sum(1);
      attributes.set_post_ops(sum);
    }
    move_ = Work(dnnl::reorder::primitive_desc(host(), role == read ? ours : theirs, host(), role == read ? theirs : ours, attributes));
  }

  int64_t workspace() const { return moved_ ? aligned(int64_t(theirs_.get_desc().get_size() / sizeof(float))) : 0; }
  int64_t scratch() const { return moved_ ? move_.scratch() : 0; }
  dnnl_exec_arg_t argument() const { return {argument_, moved_ ? theirs_.get() : ours_.get()}; }

  void place(const float* data, float* copy) {
    point(ours_, data);
    if (moved_) point(theirs_, copy);
  }
  void before(const dnnl::stream& stream, float* scratch) {
    if (moved_ && role_ == read) move_.run(stream, scratch, {{DNNL_ARG_FROM, ours_.get()}, {DNNL_ARG_TO, theirs_.get()}});
  }
  void after(const dnnl::stream& stream, float* scratch) {
    if (moved_ && role_ != read) move_.run(stream, scratch, {{DNNL_ARG_FROM, theirs_.get()}, {DNNL_ARG_TO, ours_.get()}});
  }

 private:
  Role role_;
  int argument_;
  bool moved_;
  memory ours_, theirs_;
  Work move_;
};

// One direction of the convolution. Workspace: the copies of its tensors, then scratch memory of the primitive at work.
class Pass {
 public:
  template <class Description>
  Pass(const Description& description, std::array<Operand, 3> operands)
      : name_(description.impl_info_str()), work_(description), operands_(std::move(operands)) {}

  const std::string& name() const { return name_; }

  int64_t workspace() const {
    int64_t copies = 0, scratch = work_.scratch();
    for (const Operand& operand : operands_) copies += operand.workspace(), scratch = std::max(scratch, operand.scratch());
    return copies + aligned(scratch);
  }

  void run(const dnnl::stream& stream, const std::array<const float*, 3>& data, float* workspace) {
    for (int i = 0; i < 3; ++i) {
      operands_[i].place(data[i], workspace);
      workspace += operands_[i].workspace();
    }
    for (Operand& operand : operands_) operand.before(stream, workspace);
    work_.run(stream, workspace, {operands_[0].argument(), operands_[1].argument(), operands_[2].argument()});
    for (Operand& operand : operands_) operand.after(stream, workspace);
  }

 private:
  std::string name_;
  Work work_;
  std::array<Operand, 3> operands_;
};

Pass forward_pass(const ConvolutionShape& s) {
  const Problem problem(s);
  const auto d = not_reference(s, [&](const memory::desc& w) { return problem.forward(w); });
  return Pass(d, {Operand(Operand::read, DNNL_ARG_SRC, images(s.in), d.src_desc()),
                  Operand(Operand::read, DNNL_ARG_WEIGHTS, weights(s), d.weights_desc()),
                  Operand(Operand::assigned, DNNL_ARG_DST, images(s.out()), d.dst_desc())});
}

Pass backward_input_pass(const ConvolutionShape& s) {
  const Problem problem(s);
  const auto d = not_reference(s, [&](const memory::desc& w) { return problem.backward<BackwardInput>(w); });
  return Pass(d, {Operand(Operand::read, DNNL_ARG_DIFF_DST, images(s.out()), d.diff_dst_desc()),
                  Operand(Operand::read, DNNL_ARG_WEIGHTS, weights(s), d.weights_desc()),
                  Operand(Operand::assigned, DNNL_ARG_DIFF_SRC, images(s.in), d.diff_src_desc())});
}

Pass backward_weight_pass(const ConvolutionShape& s) {
  const Problem problem(s);
  const auto d = not_reference(s, [&](const memory::desc& w) { return problem.backward<BackwardWeight>(w); });
  return Pass(d, {Operand(Operand::read, DNNL_ARG_SRC, images(s.in), d.src_desc()),
                  Operand(Operand::read, DNNL_ARG_DIFF_DST, images(s.out()), d.diff_dst_desc()),
                  Operand(Operand::accumulated, DNNL_ARG_DIFF_WEIGHTS, weights(s), d.diff_weights_desc())});
}

class OnednnConvolution : public ConvolutionPlan {
 public:
  explicit OnednnConvolution(const ConvolutionShape& shape)
      : stream_(host()),
        forward_(forward_pass(shape)),
        backward_input_(backward_input_pass(shape)),
        backward_weight_(backward_weight_pass(shape)),
        inputs_(shape.in.count()) {}

  int64_t workspace() const override {
    return std::max({forward_.workspace(), aligned(inputs_) + backward_input_.workspace(), backward_weight_.workspace()});
  }
  void forward(Device, const float* x, const float* weight, float* y, float* workspace) override {
    forward_.run(stream_, {x, weight, y}, workspace);
  }
  // The library does not add to what is there: that takes another place, and a pass over it.
  void backward_input(Device, const float* dy, const float* weight, float* dx, bool add, float* workspace) override {
    float* const made = add ? workspace : dx;
    backward_input_.run(stream_, {dy, weight, made}, workspace + aligned(inputs_));
    if (add)
      parallel(inputs_, 1 << 14, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) dx[i] += made[i];
      });
  }
  void backward_weight(Device, const float* x, const float* dy, float* dweight, float* workspace) override {
    backward_weight_.run(stream_, {x, dy, dweight}, workspace);
  }
  std::string implementation() const override { return forward_.name() + ", " + backward_input_.name() + ", " + backward_weight_.name(); }

 private:
  dnnl::stream stream_;
  Pass forward_, backward_input_, backward_weight_;
  int64_t inputs_;  // floats
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_onednn(Device d, const ConvolutionShape& shape) {
  if (d.gpu) return nullptr;
  try {
    return std::make_unique<OnednnConvolution>(shape);
  } catch (const dnnl::error&) {
    throw Error(to_string(shape) + ": oneDNN refuses it");
  }
}
#else
std::unique_ptr<ConvolutionPlan> plan_convolution_onednn(Device, const ConvolutionShape&) { return nullptr; }
#endif

}  // namespace pipecast
