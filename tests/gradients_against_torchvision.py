"""Logits, loss and every element of every gradient beside torchvision's (AmoebaNet-D: beside golden/amoebanet_d.py), with the same weights,
for odd sizes and a batch of three. Run by hand: it needs PyTorch, torchvision and safetensors.

    ninja -C build tests/model_gradients
    python tests/gradients_against_torchvision.py build/tests/model_gradients [MODEL ...]

Weights go from torchvision to pipecast in a file; pipecast writes its gradients with torchvision's names and layouts. The reference is
torchvision in double precision. Beside pipecast's error stands that of torchvision in fp32: a value near the kink of a ReLU or near the
maximum of a pooling window falls to one side or the other by rounding alone, which can move the gradients below it by a percent, in both.
That is chance, and other images are not struck by it; a mistake would be there for all. So a model is right if every gradient is for one
of a few sets of images; logits and loss must be for each.

An error is relative to the gradient's norm, or to a thousandth of the largest norm where that is more (a bias before a batch norm has no
gradient).
"""

import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent / "golden"))
from make_model_gradients import build  # noqa: E402

SIZES = {"alexnet": (67, 75), "amoebanet_d_3x16": (67, 75), "vgg16": (65, 97), "vgg16_bn": (65, 97), "googlenet": (97, 129), "inception_v3": (139, 171),
         "densenet121": (101, 131), "mobilenet_v2": (101, 131), "resnet18": (101, 131), "resnet50": (101, 131)}
TOLERANCE = 1e-4
SETS = 12  # of images


def prepare(name):
    """A fresh network whose statistics and biases are not those of one; batch norms are shifted away from the kinks."""
    torch.manual_seed(1)
    model = build(name, 10)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.normal_(3 if name == "mobilenet_v2" else 6, 0.1)
            module.weight.data.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def of_torchvision(model, images, labels, type):
    model = model.to(type)
    with torch.no_grad():
        logits = model.eval()(images.to(type)).double()
    model.train().zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images.to(type)), labels)
    loss.backward()
    return logits, loss.item(), {name: p.grad.double() for name, p in model.named_parameters()}


def errors(gradients, reference):
    largest = max(float(g.norm()) for g in reference.values())
    return {name: float((gradients[name] - g).norm() / (g.norm() + 1e-3 * largest)) for name, g in reference.items()}


def compare(binary, name, folder):
    for seed in range(SETS):
        good, every_gradient = compare_with(binary, name, seed, folder)
        if not good or every_gradient:
            return good
    return False


def compare_with(binary, name, seed, folder):
    """Whether logits and loss are right, and whether every gradient is."""
    model = prepare(name)
    images = torch.randn(3, 3, *SIZES[name], generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([0, 3, 6])
    weights, given, out = (folder / f"{part}.safetensors" for part in ("weights", "input", "out"))
    safetensors.torch.save_file(model.state_dict(), weights)
    safetensors.torch.save_file({"images": images, "labels": labels.float()}, given)
    subprocess.run([binary, name, weights, given, out], check=True)
    ours = {key: t.double() for key, t in safetensors.torch.load_file(out).items()}
    state = model.state_dict()
    _, _, theirs = of_torchvision(model, images, labels, torch.float32)
    model.load_state_dict(safetensors.torch.load_file(weights))
    assert state.keys() == model.state_dict().keys()
    logits, loss, reference = of_torchvision(model, images, labels, torch.float64)
    of_logits = float((ours["logits"] - logits).abs().max() / logits.abs().max())
    own, other = errors(ours, reference), errors(theirs, reference)
    close = sum(e <= TOLERANCE for e in own.values()) / len(own)
    worst = max(own, key=own.get)
    of_loss = abs(float(ours["loss"]) - loss) / abs(loss)
    good, every_gradient = of_logits <= TOLERANCE and of_loss <= TOLERANCE, own[worst] <= TOLERANCE
    print(f"{name}, images {seed}: logits {of_logits:.1e}, loss {of_loss:.1e}, gradients {own[worst]:.1e} ({worst}), {100 * close:.0f} % of "
          f"them within {TOLERANCE:.0e}; torchvision's in fp32 {max(other.values()):.1e}: "
          f"{'ok' if good and every_gradient else 'a kink' if good else 'WRONG'}", flush=True)
    return good, every_gradient


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        results = [compare(sys.argv[1], name, pathlib.Path(temporary)) for name in sys.argv[2:] or SIZES]
    sys.exit(0 if all(results) else 1)


main()
