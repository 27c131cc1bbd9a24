"""Writes losses.safetensors: losses with everything that they can be told, and the layers of text, from PyTorch.

python make_losses.py
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(11)
out = {}


def save(name, **tensors):
    for key, t in tensors.items():
        out[f'{name}/{key}'] = t.detach().clone().float().contiguous()


def cross_entropy(name, logits, target, weights=None, smoothing=0.0):
    logits = logits.double().requires_grad_()
    options = dict(weight=None if weights is None else weights.double(), label_smoothing=smoothing)
    mean = F.cross_entropy(logits, target, **options)
    mean.backward()
    rows = F.cross_entropy(logits, target, reduction='none', **options)
    save(name, logits=logits, target=target, loss=rows, mean=mean, dlogits=logits.grad, smoothing=torch.tensor(smoothing),
         **({} if weights is None else dict(weights=weights)))


target = torch.tensor([3, -100, 0, 6, -100, 2, 5, 1])
weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 0.25, 3.0, 1.5])
cross_entropy('ignored', 3 * torch.randn(8, 7), target)
cross_entropy('ignored_smoothing', 3 * torch.randn(8, 7), target, smoothing=0.1)
cross_entropy('weights', 3 * torch.randn(8, 7), target.clamp(min=0), weights)
cross_entropy('everything', 3 * torch.randn(8, 7), target, weights, 0.2)

x, wanted = torch.randn(6, 5, dtype=torch.double, requires_grad=True), torch.randn(6, 5, dtype=torch.double)
mean = F.mse_loss(x, wanted)
mean.backward()
save('squared', x=x, target=wanted, mean=mean, dx=x.grad)

table = torch.nn.Embedding(9, 5, padding_idx=0).double()
tokens = torch.tensor([[3, 1, 3, 8, 0, 0], [1, 3, 7, 7, 7, 2], [8, 0, 0, 0, 0, 0]])
y = table(tokens)
dy = torch.randn_like(y)
y.backward(dy)
save('embedding', tokens=tokens, weight=table.weight, y=y, dy=dy, dweight=table.weight.grad)

x = torch.randn(3, 4, 5, dtype=torch.double, requires_grad=True)
length = torch.tensor([4, 1, 3])
mask = (torch.arange(4) < length[:, None]).double()[:, :, None]
y = (x * mask).sum(1) / length[:, None]
dy = torch.randn_like(y)
y.backward(dy)
save('masked_mean', x=x, length=length, y=y, dy=dy, dx=x.grad)

# A mixture of two labels, as mixup has it. Its accuracy is that of the label with the larger share.
torch.manual_seed(12)
logits = (3 * torch.randn(6, 5)).double().requires_grad_()
first, second = torch.tensor([0, 4, 2, 2, 1, 3]), torch.tensor([1, 4, 0, 3, 2, 0])
share = torch.tensor([0.25, 0.5, 1.0, 0.0, 0.75, 0.625])
for name, smoothing in [('mixture', 0.0), ('mixture_smoothing', 0.1)]:
    rows = share * F.cross_entropy(logits, first, reduction='none', label_smoothing=smoothing)
    rows = rows + (1 - share) * F.cross_entropy(logits, second, reduction='none', label_smoothing=smoothing)
    gradient, = torch.autograd.grad(rows.mean(), logits)
    hits = logits.argmax(1) == torch.where(share >= 0.5, first, second)
    save(name, logits=logits, target=first, second=second, share=share, loss=rows, dlogits=gradient, hits=hits.sum(),
         smoothing=torch.tensor(smoothing))

save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'losses.safetensors'))
