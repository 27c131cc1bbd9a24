"""Writes layers.safetensors beside this file: what PyTorch computes for every layer and option, in pipecast's layouts.

    python tests/golden/make_layers.py        (needs torch, safetensors)

For a case NAME the file holds NAME/x0 .. (inputs, NHWC), NAME/dy, NAME/y, NAME/dx0 .., and for each parameter P NAME/P and
NAME/dP; for batch norm's statistics S NAME/before.S and NAME/after.S. For the loss: logits, target, loss, hits, dlogits.
Arithmetic is double over inputs that fp32 holds exactly, so the results carry no error but their last rounding.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(1)
out = {}


def nhwc(t):  # (n, c, h, w) or (n, c) -> (n, h, w, c)
    return (t if t.dim() == 4 else t[:, :, None, None]).permute(0, 2, 3, 1).contiguous()


def stored(t):  # a parameter: OIHW -> OHWI
    return t.permute(0, 2, 3, 1).contiguous() if t.dim() == 4 else t.contiguous()


def case(name, forward, xs, module=None):
    """forward(*xs) with its gradients for a random dy; the parameters and statistics are those of `module`."""
    put = lambda key, t: out.__setitem__(f'{name}/{key}', t.detach().clone().float())
    if module:
        module.double()
    statistics = dict(module.named_buffers()) if module else {}
    xs = [x.double().requires_grad_() for x in xs]
    for key, s in statistics.items():
        put('before.' + key, s)
    y = forward(*xs)
    dy = torch.randn(y.shape).double()
    y.backward(dy)
    for i, x in enumerate(xs):
        put(f'x{i}', nhwc(x))
        put(f'dx{i}', nhwc(x.grad))
    put('y', nhwc(y))
    put('dy', nhwc(dy))
    for key, p in module.named_parameters() if module else []:
        put(key, stored(p))
        put('d' + key, stored(p.grad))
    for key, s in statistics.items():
        put('after.' + key, s)


def image(n, h, w, c):
    return torch.randn(n, c, h, w)


case('relu', F.relu, [image(2, 3, 3, 5)])
case('add', lambda a, b, c: a + b + c, [image(2, 3, 3, 5) for _ in range(3)])
case('concatenation', lambda a, b, c: torch.cat([a, b, c], 1), [image(2, 3, 2, c) for c in (3, 5, 1)])


def batch_norm(name, finish, inputs=1, training=True, **options):
    module = nn.BatchNorm2d(5, **options)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    nn.init.normal_(module.running_mean)
    nn.init.uniform_(module.running_var, 0.5, 2)
    module.num_batches_tracked.fill_(7)
    module.train(training)
    case(name, lambda x, *more: finish(module(x), *more), [3 + 2 * image(3, 3, 2, 5)] + [image(3, 3, 2, 5)] * (inputs - 1), module)


batch_norm('batch_norm', lambda y: y)
batch_norm('batch_norm_options', lambda y: y, eps=1e-2, momentum=0.3)
batch_norm('batch_norm_relu', F.relu)
batch_norm('batch_norm_add', lambda y, r: y + r, 2)
batch_norm('batch_norm_add_relu', lambda y, r: F.relu(y + r), 2)
batch_norm('batch_norm_evaluation', lambda y, r: F.relu(y + r), 2, training=False)


def convolution(name, n, h, w, i, o, k, bias=False, **options):
    module = nn.Conv2d(i, o, k, bias=bias, **options)
    case(name, module, [image(n, h, w, i)], module)


convolution('convolution', 2, 5, 4, 3, 5, 3, padding=1)
convolution('convolution_stride', 2, 6, 5, 3, 4, 3, stride=2, padding=1)
convolution('convolution_dilation', 1, 7, 6, 3, 2, 3, dilation=2, padding=2)
convolution('convolution_groups', 2, 4, 4, 6, 4, 3, groups=2, padding=1)
convolution('convolution_depthwise', 1, 5, 5, 4, 4, 3, groups=4)
convolution('convolution_bias', 2, 3, 3, 5, 3, 1, bias=True, stride=2)
convolution('convolution_seven', 1, 9, 8, 3, 2, 7, bias=True, stride=2, padding=3)

case('linear', module := nn.Linear(7, 5), [torch.randn(3, 7)], module)
case('linear_plain', module := nn.Linear(7, 5, bias=False), [torch.randn(3, 7)], module)
flat = nn.Linear(2 * 3 * 5, 4)
case('linear_image', lambda x: flat(x.permute(0, 2, 3, 1).flatten(1)), [image(3, 2, 3, 5)], flat)

case('max_pool', nn.MaxPool2d(2), [image(2, 5, 4, 5)])
case('max_pool_overlapping', nn.MaxPool2d(3, 2, 1), [image(2, 5, 6, 5)])
case('max_pool_ties', nn.MaxPool2d(3, 1, 1), [image(1, 4, 5, 3).round()])
broken = image(1, 5, 5, 2)
broken[0, 0, 2, 2] = broken[0, 0, 2, 3] = float('nan')
broken[0, 1, :3, :3] = -float('inf')
case('max_pool_broken', nn.MaxPool2d(3, 2, 1), [broken])
case('average_pool', nn.AvgPool2d(2), [image(2, 5, 4, 5)])
case('average_pool_overlapping', nn.AvgPool2d(3, 2, 1), [image(2, 5, 6, 5)])
case('global_average_pool', nn.AdaptiveAvgPool2d(1), [image(3, 3, 4, 5)])


def loss(name, logits, smoothing):
    target = torch.randint(0, logits.shape[1], (logits.shape[0],))
    target[:2] = logits[:2].argmax(1)
    logits = logits.double().requires_grad_()
    rows = F.cross_entropy(logits, target, reduction='none', label_smoothing=smoothing)
    rows.mean().backward()
    hits = logits.argmax(1) == target
    for key, t in dict(logits=logits, target=target, loss=rows, dlogits=logits.grad, hits=hits).items():
        out[f'{name}/{key}'] = t.detach().clone().float()


loss('loss', 3 * torch.randn(6, 10), 0.0)
loss('loss_smoothing', 3 * torch.randn(6, 10), 0.1)
loss('loss_large', 1e4 * (2 * torch.rand(6, 17) - 1), 0.1)
loss('loss_ties', torch.randn(6, 5).round(), 0.0)

# Later ones have a seed of their own, so that those above keep their numbers.
torch.manual_seed(2)
batch_norm('batch_norm_ceiling', lambda y: F.hardtanh(y, 0, 0.75))
convolution('convolution_wide', 2, 5, 6, 3, 4, (1, 7), padding=(0, 3))
convolution('convolution_high', 2, 6, 5, 3, 4, (3, 1), padding=(1, 0), stride=2)
convolution('convolution_depthwise_stride', 1, 6, 5, 19, 19, 3, groups=19, padding=1, stride=2)
case('max_pool_ceil', nn.MaxPool2d(3, 2, ceil_mode=True), [image(1, 6, 4, 5)])
case('max_pool_ceil_padding', nn.MaxPool2d(2, 2, 1, ceil_mode=True), [image(1, 5, 4, 3)])
case('average_pool_inside', nn.AvgPool2d(3, 2, 1, count_include_pad=False), [image(1, 5, 6, 5)])
case('adaptive_average_pool', nn.AdaptiveAvgPool2d(3), [image(2, 7, 5, 3)])
case('adaptive_average_pool_up', nn.AdaptiveAvgPool2d(3), [image(1, 1, 2, 5)])
case('flatten', lambda x: x.flatten(1), [image(2, 3, 2, 5)])
# A pixel down and to the right, then every second one: the shifted half of a factorised reduction.
shifted = lambda x: F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
case('subsample', shifted, [image(2, 5, 3, 3)])
case('subsample_even', shifted, [image(1, 4, 6, 5)])

torch.manual_seed(3)


def transposed(name, n, h, w, i, o, k, **options):
    module = nn.ConvTranspose2d(i, o, k, **options)
    case(name, module, [image(n, h, w, i)], module)


transposed('transposed_convolution', 2, 3, 4, 5, 3, 2, stride=2)
transposed('transposed_convolution_padding', 1, 4, 3, 3, 4, 3, stride=2, padding=1, output_padding=1, bias=False)
transposed('transposed_convolution_stride_one', 1, 4, 3, 3, 2, 4, padding=1)
case('upsample', nn.Upsample(scale_factor=2), [image(2, 3, 2, 5)])
case('upsample_three', nn.Upsample(scale_factor=3), [image(1, 2, 3, 3)])
case('upsample_fill', lambda x: F.pad(F.interpolate(x, scale_factor=2), [0, 1, 0, 2]), [image(2, 2, 3, 5)])
case('leaky_relu', lambda x: F.leaky_relu(x, .1), [image(2, 3, 3, 5)])
case('instance_norm', nn.InstanceNorm2d(5), [3 + 2 * image(3, 4, 2, 5)])
for name, slope in [('instance_norm_affine', 1), ('instance_norm_leaky', .2)]:
    norm = nn.InstanceNorm2d(5, eps=1e-2, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    case(name, lambda x: F.leaky_relu(norm(x), slope), [3 + 2 * image(3, 4, 2, 5)], norm)

save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'layers.safetensors'))
