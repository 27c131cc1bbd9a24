#!/usr/bin/env python3
"""One-stage training speed and memory beside PyTorch: the same model, batch and threads, in turns, in one run.

    python bench/against_pytorch.py build/app/pipecast
    python bench/against_pytorch.py build/app/pipecast --model resnet18 --batch 32 --image 64 --device cuda --json

Needs PyTorch, and torchvision for the ImageNet models. A step is: forward, loss, backward, SGD with momentum and weight decay, on
images that are already in memory. PyTorch is measured in both of its memory layouts; the faster one counts. On a GPU steps follow one
another without waiting on both sides, PyTorch chooses convolutions by trying them (cudnn.benchmark), and --compile adds torch.compile
with its own CUDA graphs.

Memory is the most that lay in the host's memory at once (VmHWM in /proc/self/status, Linux) in a process that does nothing but a few steps,
counted in two ways: the whole process, libraries and all, and what came on top once they were loaded and before the model was made.
Not for --device cuda.
"""
import argparse
import json
import pathlib
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


def resnet9():
    def pooled(inputs, outputs):
        return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    groups = [*pooled(64, 128), Block(128, 128, 1), *pooled(128, 256), *pooled(256, 512), Block(512, 512, 1)]
    return nn.Sequential(*stem, *groups, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def make_model(name):
    if name == "resnet9":
        return resnet9()
    if name.startswith("resnet") and int(name.removeprefix("resnet")) in (20, 32, 44, 56, 110):
        return cifar_resnet(int(name.removeprefix("resnet")))
    if name.startswith("amoebanet_d_"):
        sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "golden"))
        from amoebanet_d import AmoebaNetD

        return AmoebaNetD(*map(int, name.removeprefix("amoebanet_d_").split("x")), 10)
    import torchvision

    without_auxiliary = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(torchvision.models, name)(num_classes=10, **without_auxiliary)


class Pytorch:
    def __init__(self, arguments, layout, compiled=False):
        self.batch, self.device, self.bf16 = arguments.batch, arguments.device, arguments.math == "bf16"
        self.model = make_model(arguments.model).to(self.device, memory_format=layout).train()
        self.images = torch.randn(arguments.batch, 3, arguments.image, arguments.image, device=self.device).to(memory_format=layout)
        if compiled:
            self.model = torch.compile(self.model, mode="reduce-overhead")
        self.labels = torch.randint(0, 10, (arguments.batch,), device=self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def images_per_second(self, seconds):
        for _ in range(3):
            self.step()
        self.wait()
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.step()
            steps += 1
        self.wait()
        return steps * self.batch / (time.perf_counter() - start)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def pipecast(arguments):
    command = [arguments.pipecast, "bench", "step", "--model", arguments.model, "--batch", str(arguments.batch), "--image", str(arguments.image),
               "--threads", str(arguments.threads), "--device", arguments.device, "--seconds", str(arguments.seconds), "--math", arguments.math,
               *(["--cuda-graphs"] if arguments.cuda_graphs else []), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_resident_mebibytes():
    """Not resource.getrusage: its maximum begins with that of the process which started this one."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def print_memory_of_pytorch(arguments, layout):
    """What a process started for nothing else prints: [whole process, above its level before the model]."""
    before = peak_resident_mebibytes()
    model = Pytorch(arguments, layout)
    for _ in range(5):
        model.step()
    whole = peak_resident_mebibytes()
    print(json.dumps([whole, whole - before]))


def memory_of_pytorch(layout_name):
    command = [sys.executable, *sys.argv, "--memory-of", layout_name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipecast", help="the pipecast binary")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--math", default="fp32", choices=["fp32", "tf32", "bf16"], help="of both sides; bf16: PyTorch's by autocast")
    parser.add_argument("--cuda-graphs", action="store_true", help="of pipecast")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # a child of this script
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arguments.math != "fp32"
    torch.backends.cudnn.benchmark = True

    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    if arguments.memory_of:
        return print_memory_of_pytorch(arguments, layouts[arguments.memory_of])
    rivals = {name: Pytorch(arguments, layout) for name, layout in layouts.items()}
    if arguments.compile:
        rivals.update({name + " compiled": Pytorch(arguments, layout, compiled=True) for name, layout in layouts.items()})
    rounds = []
    for _ in range(arguments.rounds):
        own = pipecast(arguments)
        speeds = {"pipecast": own["images_per_second"]}
        speeds.update({name: rival.images_per_second(arguments.seconds) for name, rival in rivals.items()})
        rounds.append(speeds)
        print("  ".join(f"{name} {speed:.1f}" for name, speed in speeds.items()), file=sys.stderr)
    medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    best = max(rivals, key=medians.get)
    layout = best.removesuffix(" compiled")
    ratios = [r["pipecast"] / r[best] for r in rounds]
    result = {"model": arguments.model, "batch": arguments.batch, "image": arguments.image, "threads": arguments.threads,
              "device": arguments.device, "math": arguments.math, "cuda_graphs": arguments.cuda_graphs, "torch": torch.__version__, "images_per_second": medians,
              "best_layout": best,
              "ratio": statistics.median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}
    if arguments.device == "cpu":
        own_memory = [own["peak_resident_mebibytes"], own["peak_resident_mebibytes"] - own["resident_mebibytes_before"]]
        memory = {"pipecast": own_memory, **{name: memory_of_pytorch(name) for name in layouts}}
        result["memory_mebibytes"] = {name: {"process": whole, "above_start": above} for name, (whole, above) in memory.items()}
        result["memory_ratio"] = {"process": memory["pipecast"][0] / memory[layout][0], "above_start": memory["pipecast"][1] / memory[layout][1]}
    if arguments.json:
        return print(json.dumps(result))
    print(f"{arguments.model}, batch {arguments.batch}, {arguments.threads} threads on {arguments.device}, {arguments.math}"
          f"{', CUDA graphs' if arguments.cuda_graphs else ''}: pipecast {medians['pipecast']:.1f} images/s, "
          f"PyTorch {torch.__version__} {medians[best]:.1f} ({best}); ratio {result['ratio']:.3f} "
          f"({result['ratio_lowest']:.3f} to {result['ratio_highest']:.3f})")
    if arguments.device == "cpu":
        for k, (key, what) in enumerate([("process", "the whole process"), ("above_start", "above its level before the model")]):
            print(f"peak resident memory, {what}: pipecast {memory['pipecast'][k]:.0f} MiB, PyTorch {memory[layout][k]:.0f} MiB ({layout}); "
                  f"ratio {result['memory_ratio'][key]:.3f}")


if __name__ == "__main__":
    main()
