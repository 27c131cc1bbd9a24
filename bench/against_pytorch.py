#!/usr/bin/env python3
"""One-stage training speed beside PyTorch: the same model, batch and threads, in turns, in one run.

    python bench/against_pytorch.py build/app/pipecast
    python bench/against_pytorch.py build/app/pipecast --model resnet18 --batch 32 --image 64 --device cuda --json

Needs PyTorch, and torchvision for the ImageNet models. A step is: forward, loss, backward, SGD with momentum and weight decay, on
images that are already in memory. PyTorch is measured in both of its memory layouts; the better one counts.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """The basic block of He et al. 2015 with a projection where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


def cifar_resnet(depth):
    blocks = (depth - 2) // 6
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    channels = 16
    for group, width in enumerate([16, 32, 64]):
        for block in range(blocks):
            layers.append(Block(channels, width, 2 if group > 0 and block == 0 else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def make_model(name):
    depth = int(name.removeprefix("resnet"))
    if depth in (20, 32, 44, 56, 110):
        return cifar_resnet(depth)
    import torchvision

    return getattr(torchvision.models, name)(num_classes=10)


class Pytorch:
    def __init__(self, arguments, layout):
        self.batch, self.device = arguments.batch, arguments.device
        self.model = make_model(arguments.model).to(self.device, memory_format=layout).train()
        self.images = torch.randn(arguments.batch, 3, arguments.image, arguments.image, device=self.device).to(memory_format=layout)
        self.labels = torch.randint(0, 10, (arguments.batch,), device=self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def images_per_second(self, seconds):
        self.step()
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.step()
            steps += 1
        return steps * self.batch / (time.perf_counter() - start)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()


def pipecast_images_per_second(arguments):
    command = [arguments.pipecast, "bench", "step", "--model", arguments.model, "--batch", str(arguments.batch), "--image", str(arguments.image),
               "--threads", str(arguments.threads), "--device", arguments.device, "--seconds", str(arguments.seconds), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["images_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipecast", help="the pipecast binary")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    rivals = {name: Pytorch(arguments, layout) for name, layout in layouts.items()}
    rounds = []
    for _ in range(arguments.rounds):
        speeds = {"pipecast": pipecast_images_per_second(arguments)}
        speeds.update({name: rival.images_per_second(arguments.seconds) for name, rival in rivals.items()})
        rounds.append(speeds)
        print("  ".join(f"{name} {speed:.1f}" for name, speed in speeds.items()), file=sys.stderr)
    medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    best = max(layouts, key=medians.get)
    ratios = [r["pipecast"] / r[best] for r in rounds]
    result = {"model": arguments.model, "batch": arguments.batch, "image": arguments.image, "threads": arguments.threads,
              "device": arguments.device, "torch": torch.__version__, "images_per_second": medians, "best_layout": best,
              "ratio": statistics.median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{arguments.model}, batch {arguments.batch}, {arguments.threads} threads: pipecast {medians['pipecast']:.1f} images/s, "
              f"PyTorch {torch.__version__} {medians[best]:.1f} ({best}); ratio {result['ratio']:.3f} "
              f"({result['ratio_lowest']:.3f} to {result['ratio_highest']:.3f})")


if __name__ == "__main__":
    main()
