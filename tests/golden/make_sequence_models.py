"""Writes sequence_models.safetensors beside this file: what PyTorch computes for small forms of the models of text, for
tests/test_sequence_models.cc.

    python tests/golden/make_sequence_models.py        (needs torch, safetensors)

For a model NAME: NAME/input.COLUMN (int32 as floats), NAME/weight.P and NAME/gradient.P of each parameter P, NAME/logits, NAME/loss [1]: the
mean softmax cross-entropy of the labels that are not -100. Recurrences end at each sample's length (packed sequences). Dropout drops nothing.
Double precision.

    python tests/golden/make_sequence_models.py MODEL WEIGHTS.safetensors OUT.safetensors

The same for the full size of residual-lstm, gnmt-8 or gnmt-16 with the weights in a file, on random inputs: by hand.
"""
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def run(module, x, length):
    packed = pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(module(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(width, width, batch_first=True), nn.Linear(width, width)

    def forward(self, x, length):
        return self.linear(run(self.lstm, x, length)) + x


class ResidualLstm(nn.Module):
    def __init__(self, vocabulary, width, blocks, classes):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.fc = nn.Linear(width, classes)

    def forward(self, tokens, length, label):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, length)
        inside = torch.arange(tokens.shape[1])[None] < length[:, None]
        return self.fc((x * inside[..., None]).sum(1) / length[:, None]), label


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear_q, self.linear_k = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.linear_att, self.normalize_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.normalize_scalar = nn.Parameter(torch.zeros(1))

    def forward(self, query, values, length):
        v = self.normalize_scalar * self.linear_att / self.linear_att.norm()
        query, key = self.linear_q(query), self.linear_k(values)
        rows = []  # a query at a time: at full size all pairs would be too many
        for i in range(query.shape[1]):
            score = torch.tanh(query[:, i : i + 1] + key + self.normalize_bias) @ v
            behind = torch.arange(key.shape[1])[None] >= length[:, None]
            rows.append((score.masked_fill(behind, -torch.inf).softmax(-1)[..., None] * values).sum(1))
        return torch.stack(rows, 1)


class Gnmt(nn.Module):
    def __init__(self, vocabulary, width, layers):
        super().__init__()
        lstm = lambda inputs, **options: nn.LSTM(inputs, width, batch_first=True, **options)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.embedder = nn.Embedding(vocabulary, width, padding_idx=0)
        self.encoder.rnn_layers = nn.ModuleList(
            [lstm(width, bidirectional=True), lstm(2 * width)] + [lstm(width) for _ in range(layers - 2)])
        self.decoder.embedder = nn.Embedding(vocabulary, width, padding_idx=0)
        self.decoder.att_rnn = nn.Module()
        self.decoder.att_rnn.rnn, self.decoder.att_rnn.attn = lstm(width), Attention(width)
        self.decoder.rnn_layers = nn.ModuleList(lstm(2 * width) for _ in range(layers - 1))
        self.decoder.classifier = nn.Module()
        self.decoder.classifier.classifier = nn.Linear(width, vocabulary)

    def forward(self, tokens, length, target_in, target_length, target):
        x = self.encoder.embedder(tokens)
        for k, layer in enumerate(self.encoder.rnn_layers):
            y = run(layer, x, length)
            x = y + x if k > 1 else y
        values = x
        x = run(self.decoder.att_rnn.rnn, self.decoder.embedder(target_in), target_length)
        inside = torch.arange(x.shape[1])[None] < target_length[:, None]
        context = self.decoder.att_rnn.attn(x, values, length) * inside[..., None]
        for k, layer in enumerate(self.decoder.rnn_layers):
            y = run(layer, torch.cat([x, context], -1), target_length)
            x = y + x if k > 0 else y
        return self.decoder.classifier.classifier(x), target


def numbers(n, positions, vocabulary, lengths):
    inside = torch.arange(positions)[None] < lengths[:, None]
    return torch.randint(2, vocabulary, (n, positions)) * inside, inside


def inputs_of(model, n, positions, vocabulary):
    lengths = lambda: torch.randint(1, positions + 1, (n,)).index_fill(0, torch.tensor([n // 2]), positions)
    length = lengths()
    columns = {"tokens": numbers(n, positions, vocabulary, length)[0], "length": length}
    if model.startswith("gnmt"):
        target_length = lengths()
        target_in, inside = numbers(n, positions, vocabulary, target_length)
        target = numbers(n, positions, vocabulary, target_length)[0].masked_fill(~inside, -100)
        return columns | {"target_in": target_in, "target_length": target_length, "target": target}
    return columns | {"label": torch.randint(0, 2, (n,))}


def evaluate(module, columns, smoothing):
    logits, target = module(**columns)
    loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-100, label_smoothing=smoothing)
    loss.backward()
    return logits, loss


def case(out, name, module, columns, smoothing=0.0):
    module = module.double()
    for p in module.parameters():
        p.data = (0.5 * torch.randn(p.shape)).float().double()
    logits, loss = evaluate(module, columns, smoothing)
    for key, column in columns.items():
        out[f"{name}/input.{key}"] = column.float()
    for key, p in module.named_parameters():
        out[f"{name}/weight.{key}"], out[f"{name}/gradient.{key}"] = p.detach().float(), p.grad.float()
    out[f"{name}/logits"], out[f"{name}/loss"] = logits.detach().float(), loss.detach().float().reshape(1)


def by_hand(model, weights, to):
    torch.manual_seed(5)
    tensors = load_file(weights)
    module = ResidualLstm(10000, 128, 4, 2) if model == "residual-lstm" else Gnmt(10000, 1024, 4 if model == "gnmt-8" else 8)
    module.load_state_dict(tensors)
    columns = inputs_of(model, 4, 12, 10000)
    logits, loss = evaluate(module.double(), columns, 0.0)
    out = {f"input.{key}": column.float() for key, column in columns.items()}
    out |= {f"gradient.{key}": p.grad.float() for key, p in module.named_parameters()}
    save_file(out | {"logits": logits.detach().float(), "loss": loss.detach().float().reshape(1)}, to)


def main():
    torch.manual_seed(4)
    out = {}
    case(out, "residual-lstm", ResidualLstm(13, 6, 4, 2), inputs_of("residual-lstm", 5, 7, 13))
    case(out, "gnmt-8", Gnmt(11, 5, 4), inputs_of("gnmt-8", 5, 7, 11), smoothing=0.1)
    save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "sequence_models.safetensors"))


if __name__ == "__main__":
    by_hand(*sys.argv[1:]) if len(sys.argv) > 1 else main()
