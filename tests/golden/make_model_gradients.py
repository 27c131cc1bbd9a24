"""Writes model_gradients.safetensors beside this file: what torchvision's models and AmoebaNet-D compute, for tests/test_models.cc. Run from the root, with
PyTorch, torchvision and safetensors:

    python tests/golden/make_model_gradients.py

For every model of MODELS, with 10 classes, weights by the formula of make_models.py (convolutions 1.4 times as large, or images would not be
told apart behind many ReLUs), images by the same formula, labels 0, 3, 6, and dropout that drops nothing:

NAME/logits     [3,10], in evaluation mode
NAME/loss       [1], in training mode: softmax cross-entropy, the mean of the batch
NAME/gradients  [parameters,2], in the order of their names: the norm of the gradient, and its product with numbers by the formula, "probe"

Training adds `shift` to the biases of batch norms. Where many values are near the kink of a ReLU, rounding alone decides which side of it
some are on, and gradients in fp32 are a percent away from those in double precision, PyTorch's own as well; with the shift few are near. The maximum of a pooling window has such kinks too, and no shift helps: in networks with
many of them (GoogLeNet, Inception) PyTorch's gradients in fp32 are up to a percent from these, below the pooling where a maximum moved.

All in double precision, so that it is pipecast's rounding alone that the test sees.
"""

import pathlib

import safetensors.torch
import torch
import torchvision

from amoebanet_d import AmoebaNetD
from make_models import elements, fill

HERE = pathlib.Path(__file__).parent
BATCH = 3
# Height and width, odd, and the shift.
MODELS = {
    "alexnet": (67, 75, 0),
    "amoebanet_d_3x16": (67, 75, 6),
    "densenet121": (101, 131, 3),
    "googlenet": (65, 81, 6),
    "inception_v3": (139, 139, 6),
    "mobilenet_v2": (101, 131, 3),
    "resnet18": (65, 97, 6),
}


def build(name, classes):
    if name == "amoebanet_d_3x16":
        return AmoebaNetD(3, 16, classes)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(num_classes=classes, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def images(height, width):
    return torch.from_numpy(elements("images", BATCH * 3 * height * width)).reshape(BATCH, 3, height, width)


def fill_model(model, shift):
    norms = {name + ".bias" for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    values = {key: fill(key, t) * (1.4 if t.dim() == 4 else 1) for key, t in model.state_dict().items()}
    model.load_state_dict({key: t + shift if key in norms else t for key, t in values.items()})
    return model.double()


def main():
    out = {}
    for name, (height, width, shift) in MODELS.items():
        with torch.no_grad():
            out[f"{name}/logits"] = fill_model(build(name, 10), 0).eval()(images(height, width)).float()
        model = fill_model(build(name, 10), shift).train()
        loss = torch.nn.functional.cross_entropy(model(images(height, width)), torch.tensor([0, 3, 6]))
        loss.backward()
        out[f"{name}/loss"] = loss.detach().float().reshape(1)
        rows = []
        for _, p in sorted(model.named_parameters()):
            gradient = p.grad.flatten()
            rows.append([gradient.norm(), gradient @ torch.from_numpy(elements("probe", gradient.numel()))])
        out[f"{name}/gradients"] = torch.tensor(rows)
        print(name, float(loss), out[f"{name}/logits"][:, 0].tolist())
    safetensors.torch.save_file(out, HERE / "model_gradients.safetensors")


if __name__ == "__main__":
    main()
