"""Writes text_models.safetensors beside this file: what transformers' models compute, tiny ones, for tests/test_text_models.cc. Run from the root,
with PyTorch, transformers and safetensors:

    python tests/golden/make_text_models.py

For each model NAME: NAME/weights/P with the names of the model's state_dict, NAME/tokens and NAME/target [n,length] or NAME/label [n],
NAME/length [n], NAME/logits (of a language model 0 behind the length), NAME/loss, NAME/gradients/P. Arithmetic is double; dropout drops nothing.
"""
import os

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

torch.manual_seed(1)
out = {}
LENGTHS = torch.tensor([5, 9, 1, 7])
LONGEST, VOCABULARY = 9, 19
BEFORE = torch.arange(LONGEST)[None] < LENGTHS[:, None]


class Transformer(nn.Module):
    """models/transformer.cc with two blocks of two heads."""

    def __init__(self, d, heads, blocks, classes):
        super().__init__()
        self.heads = heads
        self.embedding, self.words = nn.Embedding(VOCABULARY, d), nn.Linear(d, d)
        self.position, self.position_bias = nn.Embedding(12, d), nn.Embedding(1, d)
        for i in range(1, blocks + 1):
            block = nn.Module()
            for name in "query", "key", "value", "output", "fc1", "fc2":
                block.add_module(name, nn.Linear(d, d))
            block.attention_norm, block.forward_norm = nn.LayerNorm(d), nn.LayerNorm(d)
            self.add_module(f"block{i}", block)
        self.fc = nn.Linear(d, classes)

    def forward(self, tokens, mask):
        x = self.words(self.embedding(tokens)) + self.position.weight[:LONGEST] + self.position_bias.weight
        for name, block in self.named_children():
            if not name.startswith("block"):
                continue
            q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (block.query, block.key, block.value))
            y = F.scaled_dot_product_attention(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2)
            x = block.attention_norm(x + block.output(y))
            x = block.forward_norm(x + block.fc2(torch.relu(block.fc1(x))))
        return self.fc((x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))


def put(name, model, logits_of, tokens, **target):
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
        p.data = p.data.float()
    for key, value in model.state_dict().items():
        if key != "lm_head.weight":  # the same tensor as the embedding's
            out[f"{name}/weights/{key}"] = value.clone()
    model.double().eval()
    logits = logits_of(tokens)
    labels = next(iter(target.values()))
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    loss.backward()
    out[f"{name}/logits"] = (logits * BEFORE[:, :, None] if logits.dim() == 3 else logits).detach().float().contiguous()
    out[f"{name}/loss"] = loss.detach().float().reshape(1)
    for key, p in model.named_parameters():
        out[f"{name}/gradients/{key}"] = p.grad.float()
    for key, value in dict(tokens=tokens, length=LENGTHS, **target).items():
        out[f"{name}/{key}"] = value.to(torch.int32).contiguous()


tokens = torch.where(BEFORE, torch.randint(3, VOCABULARY, BEFORE.shape), 1)
label = torch.randint(0, 3, (len(LENGTHS),))
target = F.pad(tokens[:, 1:], (0, 1))
target = torch.where(torch.arange(LONGEST)[None] < LENGTHS[:, None] - 1, target, -100)

off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=12, n_embd=8, n_layer=2, n_head=2, attn_implementation="eager",
                                  bos_token_id=None, eos_token_id=None, **off))
put("gpt2", gpt2, lambda t: gpt2(t, attention_mask=BEFORE.long()).logits, tokens, target=target)

off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
roberta = RobertaForSequenceClassification(
    RobertaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, layer_norm_eps=1e-5,
                  max_position_embeddings=14, type_vocab_size=1, num_labels=3, attn_implementation="eager", **off))
put("roberta", roberta, lambda t: roberta(t, attention_mask=BEFORE.long()).logits, tokens, label=label)

transformer = Transformer(8, 2, 2, 3)
put("transformer", transformer, lambda t: transformer(t, BEFORE), tokens, label=label)

safetensors.torch.save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "text_models.safetensors"))
