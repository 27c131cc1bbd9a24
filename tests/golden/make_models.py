"""Writes what tests/test_models.cc compares the models with. Run from the root, with PyTorch, torchvision and safetensors:

    python tests/golden/make_models.py

models_resnet18.txt, models_resnet50.txt  torchvision's state_dict for 1000 classes, sorted by name, one line per tensor:
                                          "conv1.weight F32 [64,3,7,7]", "bn1.num_batches_tracked I64 []"
models.txt                                one line per torchvision model, for 1000 classes:
                                          name, tensors, trained parameters, SHA-256 of its list in the form above
models_logits.safetensors                 logits [2,10] for 2 images, in evaluation mode, of resnet18 (64 high, 96 wide), resnet50
                                          (64x64) and resnet20 (32x32), with weights and images made by `elements` below

Weights are made by a formula that test_models.cc has too, so that no file of weights is needed.
"""

import hashlib
import math
import pathlib

import numpy as np
import safetensors.torch
import torch
import torchvision

HERE = pathlib.Path(__file__).parent


def elements(name, count):
    """Numbers in [-1, 1), multiples of 2^-23: a hash of the name (FNV-1a) and of the place within the tensor."""
    hash = 2166136261
    for byte in name.encode():
        hash = (hash ^ byte) * 16777619 % 2**32
    x = (np.uint32(hash) + np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)).astype(np.uint32)
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    x ^= x >> 16
    return (x >> 8).astype(np.float64) * 2.0**-23 - 1


def fill(name, tensor):
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    e = elements(name, tensor.numel())
    if tensor.dim() > 1:
        values = e * math.sqrt(3 / (tensor.numel() // tensor.shape[0]))  # variance 1 / fan-in
    elif name.endswith("running_var") or name.endswith("weight"):
        values = 1 + 0.5 * e
    else:
        values = 0.25 * e
    return torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape)


def images(height, width):
    return torch.from_numpy(elements("images", 2 * 3 * height * width).astype(np.float32)).reshape(2, 3, height, width)


class Block(torch.nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outputs)
        self.downsample = torch.nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False), torch.nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class CifarResNet(torch.nn.Module):
    """He et al. 2015, section 4.2, with projection shortcuts."""

    def __init__(self, depth, classes=10):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        n = (depth - 2) // 6

        def group(inputs, outputs, stride):
            return torch.nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(n - 1)))

        self.layer1, self.layer2, self.layer3 = group(16, 16, 1), group(16, 32, 2), group(32, 64, 2)
        self.fc = torch.nn.Linear(64, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def tensor_list(model):
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    lines = (f"{name} {kinds[t.dtype]} [{','.join(map(str, t.shape))}]\n" for name, t in model.state_dict().items())
    return "".join(sorted(lines))


def logits(model, height, width):
    model.load_state_dict({name: fill(name, t) for name, t in model.state_dict().items()})
    model.eval()
    with torch.no_grad():
        return model(images(height, width))


def main():
    summary = ""
    without_auxiliary = {"aux_logits": False, "init_weights": False}
    for name in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet", "vgg16", "vgg16_bn", "googlenet", "inception_v3",
                 "densenet121", "mobilenet_v2"]:
        model = torchvision.models.get_model(name, **(without_auxiliary if name in ["googlenet", "inception_v3"] else {}))
        lines = tensor_list(model)
        trained = sum(p.numel() for p in model.parameters())
        summary += f"{name} {len(model.state_dict())} {trained} {hashlib.sha256(lines.encode()).hexdigest()}\n"
        if name in ["resnet18", "resnet50"]:
            (HERE / f"models_{name}.txt").write_text(lines)
    (HERE / "models.txt").write_text(summary)

    safetensors.torch.save_file(
        {
            "resnet18": logits(torchvision.models.resnet18(num_classes=10), 64, 96),
            "resnet50": logits(torchvision.models.resnet50(num_classes=10), 64, 64),
            "resnet20": logits(CifarResNet(20), 32, 32),
        },
        HERE / "models_logits.safetensors",
    )


if __name__ == "__main__":
    main()
