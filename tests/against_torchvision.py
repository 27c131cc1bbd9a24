"""Weights go from pipecast to torchvision and back, and both compute the same logits. Run by hand: it needs PyTorch,
torchvision and safetensors, and a built pipecast.

    python tests/against_torchvision.py build/app/pipecast
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import torchvision

MODELS = ["resnet18", "resnet50"]
TOLERANCE = 1e-4  # of the largest logit
IMAGES = 20
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def write_cifar10(folder):
    """Pictures of noise in CIFAR-10's binary format; returns the test images as pipecast normalises them."""
    random = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        labels = random.integers(0, 10, (IMAGES, 1), dtype=np.uint8)
        # Coarse blocks of colour, different in every picture.
        pixels = random.integers(0, 256, (IMAGES, 3, 8, 8), dtype=np.uint8).repeat(4, axis=2).repeat(4, axis=3)
        (folder / name).write_bytes(np.concatenate([labels, pixels.reshape(IMAGES, 3072)], axis=1).tobytes())
    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (torch.from_numpy(pixels).float() / 255 - mean) / deviation


def pipecast(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"pipecast {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def pipecast_logits(binary, model, weights, folder):
    out = folder / "logits.safetensors"
    out.unlink(missing_ok=True)
    pipecast(binary, "eval", "--weights", weights, "--model", model, "--data", f"cifar10:{folder}", "--logits", out)
    (logits,) = (t for t in safetensors.torch.load_file(out).values() if t.dtype == torch.float32)
    return logits.reshape(IMAGES, 10)


def torchvision_logits(network, images):
    network.eval()
    with torch.no_grad():
        return network(images)


def compare(what, ours, theirs):
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    spread = float(theirs.std(dim=0).max() / theirs.abs().max())  # logits that ignore the image would prove nothing
    good = error <= TOLERANCE and spread > 100 * TOLERANCE
    print(f"{what}: largest error {error:.1e} of the largest logit, spread over the images {spread:.1e}: {'ok' if good else 'WRONG'}")
    return good


def randomize(network):
    """Statistics as training would leave them: not the zeros and ones that a fresh network has."""
    torch.manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(123)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        images = write_cifar10(folder)
        for model in MODELS:
            weights = folder / f"{model}.safetensors"
            pipecast(binary, "export", "--model", model, "--seed", 1, "--out", weights)
            network = torchvision.models.get_model(model, num_classes=10)
            network.load_state_dict(safetensors.torch.load_file(weights), strict=True)
            ours = pipecast_logits(binary, model, weights, folder)
            good &= compare(f"{model}, pipecast's weights in torchvision", ours, torchvision_logits(network, images))

            network = torchvision.models.get_model(model, num_classes=10)
            randomize(network)
            safetensors.torch.save_file(network.state_dict(), weights)
            ours = pipecast_logits(binary, model, weights, folder)
            good &= compare(f"{model}, torchvision's weights in pipecast", ours, torchvision_logits(network, images))
    sys.exit(0 if good else 1)


main()
