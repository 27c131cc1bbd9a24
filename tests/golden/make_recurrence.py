"""Writes recurrence.safetensors beside this file: what PyTorch computes for layers over sequences of several lengths, in pipecast's layouts.

    python tests/golden/make_recurrence.py        (needs torch, safetensors)

For a case NAME the file holds NAME/x0 .. (inputs, (n, length, 1, c)), NAME/length (the lengths, one per sample), NAME/dy, NAME/y, NAME/dx0 ..,
and for each parameter P NAME/P and NAME/dP. Arithmetic is double over inputs that fp32 holds exactly.
"""
import os

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

torch.manual_seed(1)
out = {}


def case(name, module, forward, xs, lengths):
    """forward(*xs, lengths) with its gradients for a random dy. xs: (n, length, c)."""
    put = lambda key, t: out.__setitem__(f'{name}/{key}', t.detach().clone().float())
    for p in module.parameters():
        p.data = p.data.float().double()
    xs = [x.double().requires_grad_() for x in xs]
    lengths = torch.tensor(lengths)
    y = forward(*xs, lengths)
    dy = torch.randn(y.shape).double()
    y.backward(dy)
    for i, x in enumerate(xs):
        put(f'x{i}', x[:, :, None])
        put(f'dx{i}', x.grad[:, :, None])
    put('length', lengths)
    put('y', y[:, :, None])
    put('dy', dy[:, :, None])
    for key, p in module.named_parameters():
        put(key, p)
        put('d' + key, p.grad)


def lstm(name, n, positions, inputs, hidden, lengths, bidirectional=False):
    module = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=bidirectional).double()

    def forward(x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(module(packed)[0], batch_first=True, total_length=positions)[0]

    case(name, module, forward, [torch.randn(n, positions, inputs)], lengths)


lstm('lstm', 5, 7, 3, 19, [7, 1, 4, 6, 2])
lstm('lstm_whole', 2, 4, 6, 5, [4, 4])
lstm('lstm_both', 5, 7, 6, 5, [3, 7, 1, 5, 7], bidirectional=True)
lstm('lstm_both_short', 3, 5, 2, 3, [2, 1, 3], bidirectional=True)


class Attention(nn.Module):
    """Additive attention with a normalised energy; query and key are projected already."""

    def __init__(self, features):
        super().__init__()
        self.linear_att = nn.Parameter(torch.randn(features))
        self.normalize_scalar = nn.Parameter(torch.randn(1))
        self.normalize_bias = nn.Parameter(torch.randn(features))

    def forward(self, query, key, value, lengths):
        v = self.normalize_scalar * self.linear_att / self.linear_att.norm()
        score = torch.tanh(query[:, :, None] + key[:, None] + self.normalize_bias) @ v
        behind = torch.arange(key.shape[1])[None, None] >= lengths[:, None, None]
        return score.masked_fill(behind, -torch.inf).softmax(-1) @ value


module = Attention(9).double()
case('bahdanau', module, module, [torch.randn(3, q, c) for q, c in ((4, 9), (6, 9), (6, 5))], [6, 1, 4])

save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'recurrence.safetensors'))
