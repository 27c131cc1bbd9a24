#!/usr/bin/env python3
"""One-stage training speed of a model of text beside PyTorch: the same model, batch, length and threads, in turns, in one run.

    python bench/text_against_pytorch.py build/app/pipecast --model residual-lstm --batch 256 --length 200
    python bench/text_against_pytorch.py build/app/pipecast --model gnmt-8-small --batch 64 --length 30

Needs PyTorch, and transformers for roberta-base and gpt2. A step is: forward, loss, backward, SGD with momentum, on tokens that are already in
memory. All samples are as long as the batch: there PyTorch needs no packed sequences, which on a CPU are several times slower.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "golden"))
import make_sequence_models as models

models.run = lambda module, x, length: module(x)[0]


def attention(self, query, values, length):
    """All pairs at once, as published code has it."""
    v = self.normalize_scalar * self.linear_att / self.linear_att.norm()
    pairs = self.linear_q(query)[:, :, None] + self.linear_k(values)[:, None] + self.normalize_bias
    return (torch.tanh(pairs) @ v).softmax(-1) @ values


models.Attention.forward = attention
VOCABULARY = 10000
MODELS = {
    "residual-lstm": lambda: models.ResidualLstm(VOCABULARY, 128, 4, 10),
    "gnmt-8": lambda: models.Gnmt(VOCABULARY, 1024, 4),
    "gnmt-16": lambda: models.Gnmt(VOCABULARY, 1024, 8),
    "gnmt-8-small": lambda: models.Gnmt(VOCABULARY, 256, 4),
}


PUBLISHED = ["roberta-base", "gpt2", "gpt2-untied"]  # of transformers


def of_transformers(name):
    import transformers as t  # needed for these models alone

    if name == "roberta-base":
        return t.RobertaForSequenceClassification(t.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5))
    return t.GPT2LMHeadModel(t.GPT2Config(tie_word_embeddings=name == "gpt2"))


class Pytorch:
    def __init__(self, arguments):
        n, length = arguments.batch, arguments.length
        self.tokens, self.published = n * length, arguments.model in PUBLISHED
        self.model = of_transformers(arguments.model).train() if self.published else MODELS[arguments.model]()
        for module in self.model.modules():
            if isinstance(module, models.Attention):
                torch.nn.init.uniform_(module.linear_att, -0.1, 0.1)
        sequence, full = lambda: torch.randint(1, VOCABULARY, (n, length)), torch.full((n,), length)
        self.columns = {"tokens": sequence(), "length": full}
        if self.published:
            tokens = self.columns["tokens"]
            self.columns = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            self.columns["labels"] = torch.arange(n) % 2 if arguments.model == "roberta-base" else tokens
        elif arguments.model.startswith("gnmt"):
            self.columns |= {"target_in": sequence(), "target_length": full, "target": sequence()}
        else:
            self.columns |= {"label": torch.randint(0, 10, (n,))}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001, momentum=0.9)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        if self.published:
            self.model(**self.columns).loss.backward()
        else:
            logits, target = self.model(**self.columns)
            F.cross_entropy(logits.flatten(0, -2), target.flatten()).backward()
        self.optimizer.step()

    def tokens_per_second(self, seconds):
        self.step()
        steps, start = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - start < seconds:
            self.step()
            steps += 1
        return steps * self.tokens / (time.perf_counter() - start)


def pipecast(arguments):
    command = [arguments.pipecast, "bench", "step", "--model", arguments.model, "--batch", str(arguments.batch), "--length", str(arguments.length),
               "--threads", str(arguments.threads), "--seconds", str(arguments.seconds), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipecast", help="the pipecast binary")
    parser.add_argument("--model", default="residual-lstm", choices=[*MODELS, *PUBLISHED])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rival, rounds = Pytorch(arguments), []
    for _ in range(arguments.rounds):
        rounds.append((pipecast(arguments), rival.tokens_per_second(arguments.seconds)))
        print("pipecast %.0f  PyTorch %.0f" % rounds[-1], file=sys.stderr)
    ratios = [own / other for own, other in rounds]
    print(f"{arguments.model}, batch {arguments.batch}, {arguments.length} tokens, {arguments.threads} threads: "
          f"pipecast {statistics.median(own for own, _ in rounds):.0f} tokens/s, PyTorch {torch.__version__} "
          f"{statistics.median(other for _, other in rounds):.0f}; ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
