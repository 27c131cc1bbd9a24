"""Writes text_layers.safetensors beside this file: what PyTorch computes for the layers of transformers, as make_layers.py does for others.

    python tests/golden/make_text_layers.py        (needs torch, safetensors)

For a case NAME the file holds NAME/x0 .., NAME/dy, NAME/y, NAME/dx0 .., and NAME/P and NAME/dP for each parameter P. Sequences are (n, length,
1, c); lengths are int32 (n, 1, 1, 1), and positions behind them have y, dx and dy of 0. Arithmetic is double.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(1)
out = {}


def stored(t):  # (n, length, c) or (n, c) -> (n, length, 1, c)
    return (t[:, :, None] if t.dim() == 3 else t[:, None, None]).contiguous()


def put(name, key, t):
    out[f"{name}/{key}"] = t.detach().clone().float()


def case(name, forward, xs, lengths=(), parameters={}, mask=None):
    """forward(*xs) with its gradients for a random dy, 0 where `mask` is."""
    xs = [x.double().requires_grad_() for x in xs]
    y = forward(*xs)
    dy = torch.randn(y.shape).double()
    if mask is not None:
        y, dy = y * mask[:, :, None], dy * mask[:, :, None]
    y.backward(dy)
    for i, x in enumerate(xs):
        put(name, f"x{i}", stored(x))
        put(name, f"dx{i}", stored(torch.zeros_like(x) if x.grad is None else x.grad))
    for i, length in enumerate(lengths):
        out[f"{name}/x{len(xs) + i}"] = length.to(torch.int32)[:, None, None, None].contiguous()
    put(name, "y", stored(y))
    put(name, "dy", stored(dy))
    for key, p in parameters.items():
        put(name, key, p)
        put(name, "d" + key, p.grad)


def module_case(name, module, xs, forward=None):
    for p in module.parameters():
        nn.init.normal_(p)
    module.double()
    case(name, forward or module, xs, parameters=dict(module.named_parameters()))


def sequence(n, length, c):
    return torch.randn(n, length, c)


case("tanh", torch.tanh, [2 * sequence(2, 3, 5)])
case("gelu", F.gelu, [3 * sequence(2, 8, 5)])
case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), [3 * sequence(2, 8, 5)])
module_case("layer_norm", nn.LayerNorm(21), [3 + 2 * sequence(2, 5, 21)])
norm = nn.LayerNorm(17, eps=1e-2)
module_case("layer_norm_add", norm, [sequence(2, 35, 17), sequence(2, 35, 17)], lambda a, b: norm(a + b))
case("first_position", lambda x: x[:, 0], [sequence(3, 4, 5)])

table = nn.Embedding(9, 5)
module_case("positions", table, [sequence(2, 6, 5)], lambda x: x + table.weight[2:8])
type_table = nn.Embedding(1, 5)
module_case("positions_constant", type_table, [sequence(2, 6, 5)], lambda x: x + type_table.weight[0])
half = torch.arange(0, 8, 2).double()
angle = torch.arange(6).double()[:, None] / 10000 ** (half / 8)
case("positions_sinusoidal", lambda x: x + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[1:], [sequence(2, 5, 8)])

transposed = nn.Linear(7, 5)
transposed.weight = nn.Parameter(torch.empty(7, 5))
module_case("linear_transposed", transposed, [sequence(2, 3, 7)], lambda x: x @ transposed.weight + transposed.bias)


def before(length, positions):
    return torch.arange(positions)[None] < length[:, None]


def attend(q, k, v, heads, key_length, causal=False):
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
    seen = before(key_length, k.shape[1])[:, None, None].expand(-1, 1, q.shape[1], -1)
    if causal:
        seen = seen & torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(split(q), split(k), split(v), seen).transpose(1, 2).flatten(2)


lengths = torch.tensor([5, 1, 7])
for name, causal in ("attention", False), ("attention_causal", True):
    xs = [sequence(3, 7, 6) for _ in range(3)]
    case(name, lambda q, k, v: attend(q, k, v, 2, lengths, causal), xs, [lengths], mask=before(lengths, 7))
case("attention_packed", lambda x: attend(*x.chunk(3, -1), 3, lengths, True), [sequence(3, 7, 18)], [lengths], mask=before(lengths, 7))
query_lengths = torch.tensor([4, 3, 0])
case("attention_across", lambda q, k, v: attend(q, k, v, 1, lengths), [sequence(3, 4, 5), sequence(3, 7, 5), sequence(3, 7, 5)],
     [lengths, query_lengths], mask=before(query_lengths, 4))
# More than one block of queries.
lengths = torch.tensor([130])
case("attention_blocks", lambda x: attend(*x.chunk(3, -1), 1, lengths, True), [sequence(1, 131, 6)], [lengths], mask=before(lengths, 131))

save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "text_layers.safetensors"))
