#!/usr/bin/env python3
"""The one-stage recipe of docs/study.md in PyTorch: ResNet-20 on CIFAR-10, test accuracy at the end.

    python bench/cifar10_pytorch.py DIR --seed 1

DIR holds data_batch_1..5.bin and test_batch.bin. Batch 128 without the short last one, SGD with momentum 0.9 and weight decay 5e-4,
rate 0.1 with a cosine per update, pad-and-crop and flip, ten epochs.
"""
import argparse
import math
import pathlib

import numpy
import torch
import torch.nn.functional as F
from against_pytorch import cifar_resnet

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
DEVIATION = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)


def read(paths):
    records = numpy.concatenate([numpy.fromfile(path, numpy.uint8).reshape(-1, 3073) for path in paths])
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(records[:, 0].astype(numpy.int64))


def normalised(images):
    return (images.float() / 255 - MEAN) / DEVIATION


def augmented(images):
    padded = F.pad(images, (4, 4, 4, 4))
    result = torch.empty_like(images)
    for i, (top, left, flip) in enumerate(zip(*[torch.randint(0, n, (len(images),)).tolist() for n in (9, 9, 2)])):
        crop = padded[i, :, top : top + 32, left : left + 32]
        result[i] = crop.flip(2) if flip else crop
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    images, labels = read([arguments.folder / f"data_batch_{i}.bin" for i in range(1, 6)])
    test_images, test_labels = read([arguments.folder / "test_batch.bin"])

    model = cifar_resnet(20)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    batch, per_epoch = 128, len(images) // 128
    for epoch in range(arguments.epochs):
        model.train()
        order = torch.randperm(len(images))
        for i in range(per_epoch):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * (epoch * per_epoch + i) / (arguments.epochs * per_epoch)))
            chosen = order[i * batch : (i + 1) * batch]
            x = normalised(augmented(images[chosen])).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), labels[chosen]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        hits = sum((model(normalised(x)).argmax(1) == y).sum().item() for x, y in zip(test_images.split(128), test_labels.split(128)))
    print(f"seed {arguments.seed}: test accuracy {100 * hits / len(test_labels):.2f} %")


if __name__ == "__main__":
    main()
