"""PyTorch's run beside a one-stage run of pipecast on a text classifier: same weights at the start, same data, same recipe.

    python3 bench/imdb_pytorch.py build/app/pipecast --data imdb --model transformer --optimizer sgd --lr 0.05 --epochs 5 --seeds 1,2,3

data: a folder of columns that data/prepare_text made. Needs torch and safetensors. The order of the samples and dropout's masks are
PyTorch's own, so the two differ as two seeds do. The learning rate falls as a cosine, by update. A line per seed: test accuracy in percent.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
from make_sequence_models import ResidualLstm

WIDTH, CLASSES = 128, 2


def mean_over_time(x, length):
    inside = torch.arange(x.shape[1])[None] < length[:, None]
    return (x * inside[..., None]).sum(1) / length[:, None]


class Transformer(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding, self.words = nn.Embedding(vocabulary, WIDTH, padding_idx=0), nn.Linear(WIDTH, WIDTH)
        self.position, self.position_bias = nn.Embedding(200, WIDTH), nn.Embedding(1, WIDTH)
        for i in range(1, 4):
            block = nn.Module()
            for name in "query", "key", "value", "output", "fc1", "fc2":
                block.add_module(name, nn.Linear(WIDTH, WIDTH))
            block.attention_norm, block.forward_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.add_module(f"block{i}", block)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens, length, label):
        positions = tokens.shape[1]
        mask = (torch.arange(positions)[None] < length[:, None])[:, None, None]
        x = self.words(self.embedding(tokens)) + self.position.weight[:positions] + self.position_bias.weight
        for block in (self.block1, self.block2, self.block3):
            q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (block.query, block.key, block.value))
            y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
            x = block.attention_norm(x + F.dropout(block.output(y), 0.5, self.training))
            x = block.forward_norm(x + F.dropout(block.fc2(torch.relu(block.fc1(x))), 0.5, self.training))
        return self.fc(mean_over_time(x, length)), label


def read_columns(path):
    with safe_open(path, framework="pt") as file:
        vocabulary = int(file.metadata()["vocabulary"])
        columns = {name: file.get_tensor(name).to(torch.int64) for name in ("tokens", "length", "label")}
    texts = columns["tokens"].split(columns["length"].tolist())
    return nn.utils.rnn.pad_sequence(texts, batch_first=True), columns["length"], columns["label"], vocabulary


def accuracy(model, tokens, length, label):
    model.eval()
    with torch.no_grad():
        parts = [slice(i, i + 100) for i in range(0, len(label), 100)]
        hits = sum((model(tokens[part], length[part], label[part])[0].argmax(1) == label[part]).sum().item() for part in parts)
    model.train()
    return 100 * hits / len(label)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipecast")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--model", choices=["transformer", "residual-lstm"], required=True)
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    tokens, length, label, vocabulary = read_columns(a.data / "train.safetensors")
    *test, _ = read_columns(a.data / "test.safetensors")
    for seed in map(int, a.seeds.split(",")):
        torch.manual_seed(seed)
        model = Transformer(vocabulary) if a.model == "transformer" else ResidualLstm(vocabulary, WIDTH, 4, CLASSES)
        with tempfile.TemporaryDirectory(prefix="pipecast-imdb-") as folder:
            subprocess.run([a.pipecast, "export", "--model", a.model, "--classes", str(CLASSES), "--seed", str(seed), "--out",
                            f"{folder}/initial.safetensors"], check=True, stdout=subprocess.DEVNULL)
            model.load_state_dict(load_file(f"{folder}/initial.safetensors"))
        if a.optimizer == "sgd":
            optimizer = torch.optim.SGD(model.parameters(), a.lr, momentum=0.9, weight_decay=a.weight_decay)
        else:
            optimizer = torch.optim.Adam(model.parameters(), a.lr, weight_decay=a.weight_decay)
        updates, done = a.epochs * math.ceil(len(label) / a.batch), 0
        for _ in range(a.epochs):
            order = torch.randperm(len(label))
            for begin in range(0, len(order), a.batch):
                some = order[begin:begin + a.batch]
                longest = int(length[some].max())
                optimizer.param_groups[0]["lr"] = a.lr * (1 + math.cos(math.pi * done / updates)) / 2
                optimizer.zero_grad()
                F.cross_entropy(*model(tokens[some, :longest], length[some], label[some])).backward()
                optimizer.step()
                done += 1
        print(json.dumps({"model": a.model, "optimizer": a.optimizer, "seed": seed, "test_accuracy": accuracy(model, *test)}), flush=True)


if __name__ == "__main__":
    main()
