"""Writes unet.safetensors beside this file: what a U-Net computes in PyTorch, for tests/test_models.cc. Run from the root:

    python tests/golden/make_unet.py

U-Net (3, 4) of torchgpipe, with three outputs for each pixel: weights, images (2 of 131 x 99 pixels, which five poolings do not divide) and
labels by the formula of make_models.py, in double precision, without dropout.

names       "NAME F32 [SHAPE]" of all weights, as bytes, a line each
counts      parameters of the sizes that torchgpipe publishes, with one output as there
logits      every 307th of all, in the order n, h, w, class
loss        the mean over the pixels
gradients   [parameters,2], in the order of their names: the norm, and the product with numbers by the formula, "probe"
"""

import pathlib

import safetensors.torch
import torch
from torch import nn

from make_models import elements, fill

HERE = pathlib.Path(__file__).parent
DEPTH = 5


class UNet(nn.Module):
    def __init__(self, blocks, base, outputs, device=None):
        super().__init__()
        self.blocks = blocks
        self.device = device

        def cell(name, inputs, middle, out):
            widths = [inputs] + [middle] * (blocks - 1) + [out]
            for b in range(blocks):
                self.add_module(f"{name}_{b}_conv", nn.Conv2d(widths[b], widths[b + 1], 3, padding=1, bias=False, device=device))

        for level in range(DEPTH):
            width = base * 2**level
            cell(f"encoder_{level}_encode", width // 2 if level else 3, width, width)
        cell("bottleneck_0", base * 2 ** (DEPTH - 1), base * 2**DEPTH, base * 2 ** (DEPTH - 1))
        for number in range(DEPTH):
            width = base * 2 ** (DEPTH - 1 - number)
            cell(f"decoder_{number}_decode", 2 * width, width // 2, width // 2)
        self.segment = nn.Conv2d(base // 2, outputs, 1, bias=False, device=device)

    def run_cell(self, name, x):
        for b in range(self.blocks):
            x = getattr(self, f"{name}_{b}_conv")(x)
            x = nn.functional.leaky_relu(nn.functional.instance_norm(x), 1e-2)
        return x

    def forward(self, x):
        skips = []
        for level in range(DEPTH):
            x = self.run_cell(f"encoder_{level}_encode", x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.run_cell("bottleneck_0", x)
        for number in range(DEPTH):
            skip = skips.pop()
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = nn.functional.pad(x, [0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]])
            x = self.run_cell(f"decoder_{number}_decode", torch.cat([x, skip], 1))
        return self.segment(x)


def main():
    out = {}
    model = UNet(3, 4, 3)
    model.load_state_dict({key: fill(key, t) for key, t in model.state_dict().items()})
    model.double()
    n, h, w = 2, 131, 99
    images = torch.from_numpy(elements("images", n * 3 * h * w)).reshape(n, 3, h, w)
    labels = torch.from_numpy((elements("labels", n * h * w) + 1) * 1.5).long().reshape(n, h, w)
    logits = model(images)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    lines, rows = [], []
    for name, p in sorted(model.named_parameters()):
        gradient = p.grad.flatten()
        lines.append(f"{name} F32 [{','.join(map(str, p.shape))}]\n")
        rows.append([gradient.norm(), gradient @ torch.from_numpy(elements("probe", gradient.numel()))])
    counts = []
    for blocks, base in [(5, 64), (6, 72), (11, 128), (24, 128), (24, 160), (48, 160)]:
        counts.append(sum(p.numel() for p in UNet(blocks, base, 1, "meta").parameters()))
    print(float(loss.detach()), counts)
    out["names"] = torch.tensor(list("".join(lines).encode()), dtype=torch.uint8)
    out["counts"] = torch.tensor(counts)
    out["logits"] = logits.detach().permute(0, 2, 3, 1).flatten()[::307].float().contiguous()
    out["loss"] = loss.detach().float().reshape(1)
    out["gradients"] = torch.tensor(rows)
    safetensors.torch.save_file(out, HERE / "unet.safetensors")


if __name__ == "__main__":
    main()
