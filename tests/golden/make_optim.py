"""Writes optim.safetensors: what torch.optim does to the same weights and gradients, and the rates of its schedulers.

Run from the repository's root, with PyTorch and safetensors installed:  python tests/golden/make_optim.py
Arithmetic is double, with every hyperparameter first rounded to fp32, so that the values hold no error of their own.
"""

import pathlib

import torch
from safetensors.torch import save_file

SIZE, STEPS, KEPT = 37, 12, (1, 2, 12)
KEYS = ("square_avg", "momentum_buffer", "exp_avg", "exp_avg_sq")  # of a state, in the order of ours


def fp32(x):
    return torch.tensor(x, dtype=torch.float32).item()


def rate(t):  # of update t (1 for the first): changes with every update
    return fp32(0.02 * (1 + 0.5 * (t % 3)) / t)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "sgd_decay": (torch.optim.SGD, dict(weight_decay=fp32(0.1), dampening=fp32(0.3))),  # no momentum: dampening has no effect
    "momentum": (torch.optim.SGD, dict(momentum=fp32(0.9))),
    "momentum_decay": (torch.optim.SGD, dict(momentum=fp32(0.9), weight_decay=fp32(0.1))),
    "dampening": (torch.optim.SGD, dict(momentum=fp32(0.9), dampening=fp32(0.3), weight_decay=fp32(0.1))),
    "nesterov": (torch.optim.SGD, dict(momentum=fp32(0.9), nesterov=True, weight_decay=fp32(0.1))),
    "adam": (torch.optim.Adam, dict(betas=(fp32(0.9), fp32(0.999)), eps=fp32(1e-8))),
    "adam_decay": (torch.optim.Adam, dict(betas=(fp32(0.8), fp32(0.99)), eps=fp32(1e-3), weight_decay=fp32(0.1))),
    "rmsprop": (torch.optim.RMSprop, dict(alpha=fp32(0.99), eps=fp32(1e-8))),
    "rmsprop_momentum": (torch.optim.RMSprop, dict(alpha=fp32(0.9), eps=fp32(1e-3), momentum=fp32(0.8), weight_decay=fp32(0.1))),
    "nadam": (torch.optim.NAdam, dict(betas=(fp32(0.9), fp32(0.999)), eps=fp32(1e-8), momentum_decay=fp32(0.004), weight_decay=fp32(0.1),
                                      decoupled_weight_decay=True)),
    "adamw": (torch.optim.AdamW, dict(betas=(fp32(0.9), fp32(0.999)), eps=fp32(1e-8), weight_decay=fp32(0.1))),
}


def optimizer_tensors():
    torch.manual_seed(20)
    start = torch.rand(SIZE) + 0.5
    start[::2] *= -1
    gradients = torch.randn(STEPS, SIZE)
    out = {"start": start, "gradients": gradients, "rates": torch.tensor([rate(t + 1) for t in range(STEPS)])}
    for name, (kind, options) in OPTIMIZERS.items():
        w = torch.nn.Parameter(start.double())
        optimizer = kind([w], lr=1.0, **options)
        weights = []
        for t in range(STEPS):
            optimizer.param_groups[0]["lr"] = rate(t + 1)
            w.grad = gradients[t].double()
            optimizer.step()
            if t + 1 in KEPT:
                weights.append(w.detach().float())
        out[name + ".weights"] = torch.stack(weights)
        state = optimizer.state[w]
        for i, key in enumerate(k for k in KEYS if state.get(k) is not None):
            out[f"{name}.state{i}"] = state[key].float()
    return out


MUON_SHAPES = ((3, 8), (12, 5), (7,), (4, 2, 2, 3))  # wide, tall, a vector, a convolution


def newton_schulz(x, coefficients, steps, eps):
    """What torch.optim.Muon does in bfloat16, in the precision of x."""
    a, b, c = coefficients
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    newton_schulz.results.append(x)
    return x


def muon_tensors():
    """torch.optim.Muon for the matrices, torch.optim.AdamW for the vector; each parameter flat, one after another."""
    torch.optim._muon._zeropower_via_newtonschulz = newton_schulz
    torch.manual_seed(21)
    start = [torch.rand(shape) - 0.5 for shape in MUON_SHAPES]
    gradients = [[torch.randn(shape) for shape in MUON_SHAPES] for _ in range(STEPS)]
    weights = [torch.nn.Parameter(w.double().reshape(len(w), -1) if w.dim() > 1 else w.double()) for w in start]
    matrices = [w for w in weights if w.dim() > 1]
    optimizers = (
        torch.optim.Muon(matrices, lr=1.0, weight_decay=fp32(0.1), momentum=fp32(0.9)),
        torch.optim.AdamW([weights[2]], lr=1.0, betas=(fp32(0.9), fp32(0.999)), eps=fp32(1e-8), weight_decay=fp32(0.1)),
    )
    flat = lambda tensors: torch.cat([t.detach().flatten() for t in tensors]).float()
    kept = []
    for t in range(STEPS):
        newton_schulz.results = []
        for w, g in zip(weights, gradients[t]):
            w.grad = g.double().reshape(w.shape)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate(t + 1)
            optimizer.step()
        if t + 1 in KEPT:
            kept.append(flat(weights))
    vector = optimizers[1].state[weights[2]]
    momentum = [optimizers[0].state[w]["momentum_buffer"] for w in matrices]
    in_order = lambda of_matrices, of_vector: flat([*of_matrices[:2], of_vector, of_matrices[2]])
    return {
        "muon.start": flat(start),
        "muon.gradients": torch.stack([flat(g) for g in gradients]),
        "muon.weights": torch.stack(kept),
        "muon.state0": in_order(momentum, vector["exp_avg"]),
        "muon.state1": in_order(newton_schulz.results, vector["exp_avg_sq"]),
    }


def schedule_tensors():
    """Three epochs of ten updates, base rate 0.1; step and multi-step are stepped per epoch there."""
    s = torch.optim.lr_scheduler
    warm_up = lambda o: s.LinearLR(o, start_factor=1 / 6, total_iters=5)  # six updates
    cases = {
        "step": (10, lambda o: s.StepLR(o, step_size=1, gamma=0.1)),
        "multi-step": (10, lambda o: s.MultiStepLR(o, milestones=[1, 2], gamma=0.2)),
        "cosine": (1, lambda o: s.CosineAnnealingLR(o, T_max=30, eta_min=0.001)),
        "polynomial": (1, lambda o: s.PolynomialLR(o, total_iters=30, power=3)),
        "warm-up cosine": (1, lambda o: s.SequentialLR(o, [warm_up(o), s.CosineAnnealingLR(o, T_max=24)], milestones=[6])),
    }
    out = {}
    for name, (every, make) in cases.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = make(optimizer)
        rates = []
        for t in range(30):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if (t + 1) % every == 0:
                scheduler.step()
        out["schedule " + name] = torch.tensor(rates, dtype=torch.float32)
    return out


save_file({**optimizer_tensors(), **muon_tensors(), **schedule_tensors()}, pathlib.Path(__file__).parent / "optim.safetensors")
