"""AmoebaNet-D (L, F) in PyTorch, for comparison with models/amoebanet.cc: the same network and names, in PyTorch's layers and autograd.

    python tests/golden/amoebanet_d.py         prints the number of parameters of each published size

The cell is that of Real et al. (2018) as the benchmarks of torchgpipe have it; see models/amoebanet.cc for where both differ from them.
"""

import torch
from torch import nn
from torch.nn import functional as F


def conv(inputs, outputs, kernel=1, stride=1, padding=0):
    """ReLU, convolution and batch norm."""
    return [nn.ReLU(), nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs)]


OPERATIONS = {
    "none": lambda c, stride: nn.Identity(),
    "average 3x3": lambda c, stride: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    "max 3x3": lambda c, stride: nn.MaxPool2d(3, stride, 1),
    "max 2x2": lambda c, stride: nn.MaxPool2d(2, stride, ceil_mode=True),
    "1x1": lambda c, stride: nn.Sequential(*conv(c, c, 1, stride)),
    "3x3": lambda c, stride: nn.Sequential(*conv(c, c // 4), *conv(c // 4, c // 4, 3, stride, 1), *conv(c // 4, c)),
    "1x7 7x1": lambda c, stride: nn.Sequential(*conv(c, c // 4), *conv(c // 4, c // 4, (1, 7), (1, stride), (0, 3)),
                                               *conv(c // 4, c // 4, (7, 1), (stride, 1), (3, 0)), *conv(c // 4, c)),
}
NORMAL = "1:1x1 + 1:max 3x3, 1:none + 0:1x7 7x1, 0:1x1 + 0:1x7 7x1, 2:max 3x3 + 2:none, 1:average 3x3 + 5:1x1", (0, 3, 4, 6)
REDUCTION = "0:max 2x2 + 0:max 3x3, 2:none + 1:3x3, 2:1x7 7x1 + 2:max 3x3, 3:none + 1:max 2x2, 2:average 3x3 + 3:1x1", (4, 5, 6)


class FactorisedReduction(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.conv2 = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.relu(x)
        shifted = F.pad(x, (-1, 1, -1, 1))  # a column and a row off at the beginning, zeros on at the end
        return self.bn(torch.cat([self.conv1(x), self.conv2(shifted)], 1))


class Cell(nn.Module):
    def __init__(self, genotype, before, last, channels, factorised):
        super().__init__()
        sums, self.passed_on = genotype
        branches = [branch.split(":") for pair in sums.split(", ") for branch in pair.split(" + ")]
        self.reads = [int(value) for value, _ in branches]
        self.reduce1 = nn.Sequential(*conv(last, channels))
        self.reduce2 = FactorisedReduction(before, channels) if factorised else nn.Sequential(*conv(before, channels))
        stride = 2 if genotype is REDUCTION else 1
        modules = [OPERATIONS[kind](channels, stride if value < 2 else 1) for value, (_, kind) in zip(self.reads, branches)]
        self.operations = nn.ModuleList(Module(module) for module in modules)

    def forward(self, before, last):
        values = [self.reduce1(last), self.reduce2(before)]
        for k in range(0, 10, 2):
            values.append(sum(self.operations[i](values[self.reads[i]]) for i in (k, k + 1)))
        return torch.cat([values[i] for i in self.passed_on], 1)


class Module(nn.Module):
    """A level of the names."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Stem(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(F.relu(x)))


class AmoebaNetD(nn.Module):
    def __init__(self, layers, filters, classes):
        super().__init__()
        group = [NORMAL] * (layers // 3)
        genotypes = [REDUCTION, REDUCTION, *group, REDUCTION, *group, REDUCTION, *group]
        names = ["stem2", "stem3"]
        for number in range(1, 6):
            names += [f"cell{number}_normal{i + 1}" for i in range(len(group))] if number % 2 else [f"cell{number}_reduction"]
        channels = before = last = filters // 4
        self.stem1 = Stem(channels)
        self.names, factorised = names, False
        for name, genotype in zip(names, genotypes, strict=True):
            channels *= 2 if genotype is REDUCTION else 1
            self.add_module(name, Cell(genotype, before, last, channels, factorised))
            before, last, factorised = last, channels * len(genotype[1]), genotype is REDUCTION
        self.classify = nn.Module()
        self.classify.fc = nn.Linear(last, classes)

    def forward(self, x):
        before = last = self.stem1(x)
        for name in self.names:
            before, last = last, getattr(self, name)(before, last)
        return self.classify.fc(last.mean((2, 3)))


def main():
    for layers, filters in (18, 208), (18, 256), (18, 416), (18, 544), (36, 544), (72, 512):
        with torch.device("meta"):
            model = AmoebaNetD(layers, filters, 1000)
        print(layers, filters, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    main()
