"""Writes model_gradients.safetensors beside this file: what torchvision's models compute, for tests/test_models.cc. Run from the root, with
PyTorch, torchvision and safetensors:

    python tests/golden/make_model_gradients.py

For every model of MODELS, with 10 classes, weights and images by the formula of make_models.py (convolutions twice as
large, or the images would not be told apart behind many ReLUs), labels 0, 3, 6, and dropout that drops
nothing:

NAME/logits     [3,10], in evaluation mode
NAME/loss       [1], in training mode: softmax cross-entropy, the mean of the batch
NAME/gradients  [parameters,2], in the order of their names: the norm of the gradient, and its product with numbers by the formula, "probe"

All in double precision, so that it is pipecast's rounding alone that the test sees.
"""

import pathlib

import safetensors.torch
import torch
import torchvision

from make_models import elements, fill

HERE = pathlib.Path(__file__).parent
BATCH = 3
# Odd sizes, with some pixels left behind the last reduction, as batch norm over few is badly conditioned.
MODELS = {
    "alexnet": (67, 75),
    "densenet121": (101, 131),
    "googlenet": (101, 131),
    "inception_v3": (139, 171),
    "mobilenet_v2": (101, 131),
    "resnet18": (101, 131),
}


def build(name, classes):
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(num_classes=classes, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def main():
    out = {}
    for name, (height, width) in MODELS.items():
        model = build(name, 10)
        model.load_state_dict({key: fill(key, t) * (2 if t.dim() == 4 else 1) for key, t in model.state_dict().items()})
        model = model.double()
        count = BATCH * 3 * height * width
        images = torch.from_numpy(elements("images", count)).reshape(BATCH, 3, height, width)
        with torch.no_grad():
            out[f"{name}/logits"] = model.eval()(images).float()
        loss = torch.nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 3, 6]))
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
