"""Logits, loss and every gradient beside transformers', at full size with random weights, lengths that differ, and files in both directions. Run
by hand: it needs PyTorch, transformers and safetensors, and some 5 GB of memory.

    ninja -C build tests/model_gradients app/pipecast
    python tests/gradients_against_transformers.py build [roberta-base gpt2 gpt2-untied]

The reference is transformers in fp32. An error is relative to the largest value of its tensor. The bias of a key has no gradient, and is left
out. Weights that pipecast writes are loaded by from_pretrained, which must find none missing and none unexpected.
"""

import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

LENGTHS = torch.tensor([37, 64, 9])


def build(name):
    torch.manual_seed(1)
    if name == "roberta-base":
        return RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5))
    return GPT2LMHeadModel(GPT2Config(tie_word_embeddings=name == "gpt2"))


def error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def check(name, build_folder, folder):
    model = build(name).eval()
    for key, p in model.named_parameters():
        if p.dim() == 1:
            p.data += 0.1 * torch.randn_like(p)
    mask = torch.arange(64)[None] < LENGTHS[:, None]
    tokens = torch.where(mask, torch.randint(3, 50257, mask.shape), 1)
    inputs = dict(tokens=tokens, length=LENGTHS)
    if name == "roberta-base":
        inputs["label"] = labels = torch.tensor([0, 1, 1])
    else:
        inputs["target"] = labels = torch.where(torch.arange(64)[None] < LENGTHS[:, None] - 1, F.pad(tokens[:, 1:], (0, 1)), -100)
    logits = model(tokens, attention_mask=mask.long()).logits
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    loss.backward()
    state = {k: v for k, v in model.state_dict().items() if not (name == "gpt2" and k == "lm_head.weight")}
    weights, given, out = (str(folder / f) for f in ("weights.safetensors", "input.safetensors", "out.safetensors"))
    safetensors.torch.save_file(state, weights)
    safetensors.torch.save_file({k: v.to(torch.int32).contiguous() for k, v in inputs.items()}, given)
    subprocess.run([f"{build_folder}/tests/model_gradients", name, weights, given, out], check=True)
    ours = safetensors.torch.load_file(out)
    rows = mask.flatten() if logits.dim() == 3 else slice(None)
    print(f"{name}: logits {error(ours['logits'][rows], logits.detach().flatten(0, -2)[rows]):.1e}, loss {ours['loss'].item():.7f} for {loss.item():.7f}")
    errors = {key: error(ours[key], p.grad) for key, p in model.named_parameters() if not key.endswith("key.bias")}
    worst = max(errors, key=errors.get)
    print(f"{name}: {len(errors)} gradients, the worst {errors[worst]:.1e} ({worst})")
    assert errors[worst] < 1e-4

    subprocess.run([f"{build_folder}/app/pipecast", "export", "--model", name, "--classes", "2", "--out", str(folder / "model.safetensors")], check=True)
    model.config.save_pretrained(folder)
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    written = safetensors.torch.load_file(str(folder / "model.safetensors"))
    assert all(torch.equal(written[k], v) for k, v in loaded.state_dict().items() if k in written) and len(written) == len(state)
    print(f"{name}: {len(written)} tensors that pipecast wrote load strictly")


with tempfile.TemporaryDirectory() as folder:
    for model_name in sys.argv[2:] or ["roberta-base", "gpt2", "gpt2-untied"]:
        check(model_name, sys.argv[1], pathlib.Path(folder))
