#!/usr/bin/env python3
"""Writes pipeline.safetensors: an asynchronous four-stage run emulated in PyTorch, for tests/test_run.cc.

Run: python make_pipeline.py        (needs torch and safetensors)

Nothing of pipecast is used. Each stage is a torch module whose weights are swapped in place (through .data, which autograd does
not notice) between the forward and the backward of a mini-batch: the saved activations are those of the forward, while the
products with the weights see the weights of the moment of the backward. All arithmetic is in double precision.

A stage with w = stages - 1 - k stages after it does w forwards, then one forward and one backward in turns, then the w backwards
that are left, with one update after each backward.
"""
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
torch.manual_seed(5)
STAGES, UPDATES, BATCH, IMAGES, SIDE, CLASSES = 4, 10, 4, 16, 6, 5


class Stem(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.bn1(self.conv1(x)))


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2 = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(x)) + x)


class Narrow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv3 = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn3 = torch.nn.BatchNorm2d(6)

    def forward(self, x):
        return F.relu(self.bn3(self.conv3(x)))


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


def cosine(update, base, total):
    return base * (1 + math.cos(math.pi * update / total)) / 2


class Sgd:
    momentum, decay = 0.9, 5e-4

    def __init__(self, parameters):
        self.velocity = [torch.zeros_like(p) for p in parameters]

    def update(self, weights, gradients, rate, t):
        for w, g, v in zip(weights, gradients, self.velocity):
            v.copy_(g + self.decay * w if t == 1 else self.momentum * v + g + self.decay * w)
            w -= rate * v

    def direction(self, t):
        return self.velocity

    def decayed(self, weights, rates, t):
        result = [w.clone() for w in weights]
        velocity = [v.clone() for v in self.velocity]
        for rate in rates:
            for w, v in zip(result, velocity):
                v.copy_(self.momentum * v + self.decay * w)
                w -= rate * v
        return result


class AdamW:
    beta1, beta2, epsilon, decay = 0.9, 0.999, 1e-8, 0.01

    def __init__(self, parameters):
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def update(self, weights, gradients, rate, t):
        for w, g, m, v in zip(weights, gradients, self.first, self.second):
            m.copy_(self.beta1 * m + (1 - self.beta1) * g)
            v.copy_(self.beta2 * v + (1 - self.beta2) * g * g)
            w *= 1 - rate * self.decay
            w -= rate * (m / (1 - self.beta1**t)) / ((v / (1 - self.beta2**t)).sqrt() + self.epsilon)

    def direction(self, t):
        return [(m / (1 - self.beta1**t)) / ((v / (1 - self.beta2**t)).sqrt() + self.epsilon) for m, v in zip(self.first, self.second)]

    def decayed(self, weights, rates, t):
        result = [w.clone() for w in weights]
        for w, m, v in zip(result, self.first, self.second):
            m = m.clone()
            for j, rate in enumerate(rates, start=1):
                w *= 1 - rate * self.decay
                m *= self.beta1
                w -= rate * (m / (1 - self.beta1 ** (t + j))) / ((v / (1 - self.beta2 ** (t + j))).sqrt() + self.epsilon)
        return result


def emulate(method, mode, optimizer, base_rate, initial, images, labels):
    modules = [Stem(), Residual(), Narrow(), Head()]
    for module in modules:
        module.load_state_dict({k: initial[k].clone() for k in module.state_dict() if k in initial}, strict=False)
        module.train()
    weights = [[p.data.clone() for p in m.parameters()] for m in modules]  # the live weights, apart from the modules'
    optimizers = [optimizer(w) for w in weights]
    updates = [0] * STAGES
    activations = [dict() for _ in range(STAGES)]  # by mini-batch: what the stage before sent
    gradients = [dict() for _ in range(STAGES)]
    kept = [dict() for _ in range(STAGES)]
    per_epoch = IMAGES // BATCH
    for i in range(UPDATES):
        at = i % per_epoch * BATCH
        activations[0][i] = images[at : at + BATCH]

    def rate(update):
        return cosine(update, base_rate, UPDATES)

    def swap_in(k, values):
        for p, w in zip(modules[k].parameters(), values):
            p.data.copy_(w)

    def predicted(k, i):
        ahead = STAGES - 1 - k if mode == "paper" else min(i, STAGES - 1 - k)
        if method != "pipeoptim" or ahead == 0 or updates[k] == 0:
            return weights[k]
        rates = [rate(updates[k] + j) for j in range(ahead)]
        if mode == "decayed":
            return optimizers[k].decayed(weights[k], rates, updates[k])
        reach = ahead * rates[0] if mode == "paper" else sum(rates)
        return [w - reach * d for w, d in zip(weights[k], optimizers[k].direction(updates[k]))]

    def forward(k, i):
        reads = predicted(k, i)
        swap_in(k, reads)
        x = activations[k].pop(i).clone().requires_grad_(k > 0)
        y = modules[k](x)
        kept[k][i] = (x, y, [w.clone() for w in reads])
        if k + 1 < STAGES:
            activations[k + 1][i] = y.detach()

    def backward(k, i):
        x, y, stashed = kept[k].pop(i)
        swap_in(k, stashed if method == "pipedream" else weights[k])
        for p in modules[k].parameters():
            p.grad = None
        if k == STAGES - 1:
            at = i % per_epoch * BATCH
            F.cross_entropy(y, labels[at : at + BATCH]).backward()
        else:
            y.backward(gradients[k].pop(i))
        if k > 0:
            gradients[k - 1][i] = x.grad
        step_rate = rate(updates[k])
        updates[k] += 1
        optimizers[k].update(weights[k], [p.grad for p in modules[k].parameters()], step_rate, updates[k])

    queues = []
    for k in range(STAGES):
        w = min(STAGES - 1 - k, UPDATES)
        order = [("F", i) for i in range(w)]
        for i in range(UPDATES - w):
            order += [("F", w + i), ("B", i)]
        queues.append(order + [("B", i) for i in range(UPDATES - w, UPDATES)])
    while any(queues):
        for k, queue in enumerate(queues):
            if not queue:
                continue
            what, i = queue[0]
            if what == "F" and i in activations[k]:
                forward(k, i)
                queue.pop(0)
            elif what == "B" and (k == STAGES - 1 or i in gradients[k]):
                backward(k, i)
                queue.pop(0)

    result = {}
    for k, module in enumerate(modules):
        swap_in(k, weights[k])
        result.update({name: value.clone() for name, value in module.state_dict().items()})
    return result


def two_buffered(optimizer, base_rate, initial, images, labels):
    """PipeDream-2BW by its formula: mini-batch b, cut into single samples, forward and backward with the weights of max(0, b - 1) updates."""
    model = torch.nn.ModuleList([Stem(), Residual(), Narrow(), Head()])
    for module in model:
        module.load_state_dict({k: initial[k].clone() for k in module.state_dict()})
    model.train()
    parameters = list(model.parameters())
    history = [[p.data.clone() for p in parameters]]
    live = optimizer(history[0])
    for b in range(UPDATES):
        for p, w in zip(parameters, history[max(0, b - 1)]):
            p.data.copy_(w)
            p.grad = None
        at = b % (IMAGES // BATCH) * BATCH
        for sample in range(at, at + BATCH):
            y = images[sample : sample + 1]
            for module in model:
                y = module(y)
            (F.cross_entropy(y, labels[sample : sample + 1]) / BATCH).backward()
        newest = [w.clone() for w in history[b]]
        live.update(newest, [p.grad for p in parameters], cosine(b, base_rate, UPDATES), b + 1)
        history.append(newest)
    for p, w in zip(parameters, history[UPDATES]):
        p.data.copy_(w)
    return {name: value.clone() for module in model for name, value in module.state_dict().items()}


def main():
    pixels = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8)  # NHWC
    labels = torch.randint(0, CLASSES, (IMAGES,))
    images = ((pixels.to(torch.float64) / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).contiguous()
    initial = {}
    for module in [Stem(), Residual(), Narrow(), Head()]:
        for name, value in module.state_dict().items():
            initial[name] = value.to(torch.float32).to(value.dtype)  # the test begins from single precision too
    file = {"pixels": pixels, "labels": labels.to(torch.int64)}

    def put(prefix, tensors):
        for name, value in tensors.items():
            file[f"{prefix}/{name}"] = value.to(torch.float32 if value.is_floating_point() else torch.int64).contiguous()

    put("initial", initial)
    for optimizer, name, base_rate in [(Sgd, "sgd", 0.05), (AdamW, "adamw", 0.01)]:
        put(f"{name} pipedream-2bw", two_buffered(optimizer, base_rate, initial, images, labels))
        put(f"{name} pipedream", emulate("pipedream", "paper", optimizer, base_rate, initial, images, labels))
        put(f"{name} vanilla", emulate("vanilla", "paper", optimizer, base_rate, initial, images, labels))
        for mode in ["paper", "exact", "decayed"]:
            put(f"{name} {mode}", emulate("pipeoptim", mode, optimizer, base_rate, initial, images, labels))
    save_file(file, pathlib.Path(__file__).parent / "pipeline.safetensors")


main()
