"""Small training runs whose weights must stay the same bit for bit while the code changes.

  python3 digests.py PIPECAST                  compares with the recorded table, digests.json
  python3 digests.py PIPECAST --against OTHER  runs both binaries and compares them: checks a change on any machine
  python3 digests.py PIPECAST --write          records the table
  --build TEXT                                 how PIPECAST was compiled, where that is not the default
  --only TEXT                                  only the runs whose names contain TEXT

Compilers, oneDNN and processors round differently, so the table holds a fingerprint of them. Where this machine's is another, the recorded
digests are not compared and the exit code is 77 (skipped). What holds on any machine is checked on any machine: the runs of a pair end
with the same bits."""
import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time

TABLE = pathlib.Path(__file__).with_name("digests.json")
# 6 mini-batches of 4 pictures an epoch.
SHARED = ["--data", "generated:24", "--batch", "4", "--epochs", "1", "--lr", "0.02"]
SEQUENTIAL = ["--executor", "sequential"]


def stages(count, *options):
    """A pipeline with one thread per stage."""
    return ["--stages", str(count), "--threads", str(count), *options]


# name: options of `train`. A later option replaces one of SHARED.
RUNS = {
    # models, and plain training
    "resnet20, one stage": stages(1),
    "resnet20, one stage of two threads": ["--stages", "1", "--threads", "2"],
    "resnet32, one stage": stages(1, "--model", "resnet32", "--augment", "crop,flip"),
    "resnet18, two stages": stages(2, "--model", "resnet18", "--data", "generated:10"),
    # methods, asynchronous
    "pipeoptim": stages(4),
    "pipeoptim, sequential": stages(4, *SEQUENTIAL),
    "pipeoptim, resnet32, two micro-batches": stages(3, "--model", "resnet32", "--micro-batches", "2"),
    "vanilla": stages(4, "--method", "vanilla"),
    "pipedream": stages(4, "--method", "pipedream"),
    "pipedream, sequential": stages(4, "--method", "pipedream", *SEQUENTIAL),
    "pipedream-vertical": stages(3, "--method", "pipedream-vertical"),
    "pipedream-2bw": stages(3, "--method", "pipedream-2bw", "--micro-batches", "4"),
    "spectrain-v1": stages(3, "--method", "spectrain-v1"),
    "spectrain-v2": stages(4, "--method", "spectrain-v2"),
    "xpipe": stages(3, "--method", "xpipe", "--micro-batches", "2", "--optimizer", "adam", "--lr", "0.002"),
    "pipemare": stages(3, "--method", "pipemare", "--rescale-epochs", "1", "--epochs", "2"),
    "pipemare, sequential": stages(3, "--method", "pipemare", "--rescale-epochs", "1", "--epochs", "2", *SEQUENTIAL),
    "nadam-async": stages(3, "--method", "nadam-async", "--lr", "0.002"),
    "spike-compensation": stages(3, "--method", "spike-compensation"),
    "spike-compensation-lwp, adamw": stages(3, "--method", "spike-compensation-lwp", "--optimizer", "adamw", "--lr", "0.002"),
    # methods, synchronous
    "gpipe": stages(3, "--method", "gpipe", "--micro-batches", "2"),
    "1f1b-flush": stages(4, "--method", "1f1b-flush", "--micro-batches", "4"),
    "interleaved": stages(2, "--method", "interleaved", "--micro-batches", "4"),
    "interleaved, sequential": stages(2, "--method", "interleaved", "--micro-batches", "4", *SEQUENTIAL),
    "interleaved, three chunks": stages(2, "--method", "interleaved", "--micro-batches", "2", "--chunks", "3", "--clip-norm", "0.5"),
    "zero-bubble": stages(3, "--method", "zero-bubble", "--micro-batches", "2"),
    "zero-bubble, sequential": stages(3, "--method", "zero-bubble", "--micro-batches", "2", *SEQUENTIAL),
    "model-parallel": stages(3, "--method", "model-parallel"),
    "program file": ["--program", "mine.csv", "--threads", "3"],
    # look-aheads and optimizers
    "look-ahead released": stages(4, "--lookahead", "released"),
    "look-ahead exact, warm-up": stages(4, "--lookahead", "exact", "--warmup-epochs", "0.5", "--optimizer", "adam", "--lr", "0.002"),
    "look-ahead decayed": stages(4, "--lookahead", "decayed"),
    "adamw": stages(3, "--optimizer", "adamw", "--lr", "0.002", "--lr-schedule", "polynomial", "--lr-final", "0.001"),
    "polynomial of power 3": stages(2, "--lr-schedule", "polynomial", "--lr-power", "3"),
    "nadam, decayed": stages(3, "--optimizer", "nadam", "--lr", "0.002", "--lookahead", "decayed", "--momentum-decay", "0.01"),
    "rmsprop": stages(3, "--optimizer", "rmsprop", "--lr", "0.002", "--lr-schedule", "step", "--lr-step-epochs", "1", "--epochs", "2"),
    "muon": stages(3, "--optimizer", "muon", "--lr-schedule", "constant"),
    "nesterov, multi-step": stages(2, "--nesterov", "--lr-schedule", "multi-step", "--lr-milestones", "1", "--epochs", "2"),
    # numbers and memory
    "bf16": stages(3, "--math", "bf16", "--micro-batches", "2"),
    "bf16, sequential": stages(3, "--math", "bf16", "--micro-batches", "2", *SEQUENTIAL),
    "bf16, recomputed, adamw": stages(2, "--math", "bf16", "--recompute", "always", "--optimizer", "adamw", "--lr", "0.002"),
    "gpipe, recomputed": stages(3, "--method", "gpipe", "--micro-batches", "2", "--recompute", "always"),
    "gpipe, recomputed but the last": stages(3, "--method", "gpipe", "--micro-batches", "2", "--recompute", "except-last"),
    "deferred batch norm": stages(3, "--micro-batches", "2", "--deferred-batch-norm", "--augment", "crop,flip"),
    "deferred batch norm, recomputed": stages(3, "--micro-batches", "2", "--deferred-batch-norm", "--augment", "crop,flip", "--recompute",
                                              "always"),
    "clipped, label smoothing": stages(3, "--clip-norm", "0.5", "--label-smoothing", "0.1"),
    "clipped synchronously": stages(3, "--method", "gpipe", "--clip-norm", "0.5", "--micro-batches", "2"),
    "clipped synchronously, sequential": stages(3, "--method", "gpipe", "--clip-norm", "0.5", "--micro-batches", "2", *SEQUENTIAL),
    # what a run may meet
    "short last batch": stages(3, "--data", "generated:27", "--micro-batches", "3", "--epochs", "2"),
    "last batch dropped": stages(3, "--data", "generated:27", "--drop-last", "--epochs", "2", "--eval-every", "2"),
    "nothing to skip": stages(4, "--non-finite", "skip"),
    "layers cut": stages(5, "--cut-layers", "--augment", "flip"),
    "synchronous beginning, rates by lag": stages(3, "--synchronous-epochs", "0.5", "--lag-rates"),
}
INTERRUPTED = stages(3, "--augment", "crop,flip", "--checkpoint-every", "2", "--epochs", "4", "--optimizer", "adam", "--lr", "0.002")
RUNS["not interrupted"] = INTERRUPTED
TRAINED_FURTHER = stages(3, "--method", "pipedream", "--lr-schedule", "constant")
RUNS["two epochs at once"] = [*TRAINED_FURTHER, "--epochs", "2"]

# Its weights stay finite and its gradients overflow: most updates are left out, and the evaluation ends the run.
OVERFLOWING = stages(2, "--lr", "1e4", "--momentum", "0", "--non-finite", "skip", "--log-every", "1")

# These end with the same bits on every machine.
PAIRS = [(name.removesuffix(", sequential"), name) for name in RUNS if name.endswith(", sequential")] + [
    ("gpipe", "gpipe, recomputed"),
    ("gpipe", "gpipe, recomputed but the last"),
    ("not interrupted", "interrupted and resumed"),
    ("two epochs at once", "one epoch, then another"),
    ("not interrupted", "evaluated"),
    ("pipeoptim", "nothing to skip"),
    ("updates skipped", "updates skipped, sequential"),
]


class Runner:
    def __init__(self, pipecast, folder):
        self.pipecast, self.folder = str(pathlib.Path(pipecast).resolve()), pathlib.Path(folder)
        self.command("audit", "--stages", "3", "--method", "pipedream", "--minibatches", "3", "--micro-batches", "2", "--export", "mine.csv")

    def command(self, *arguments, codes=(0,)):
        result = subprocess.run([self.pipecast, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300)
        if result.returncode not in codes:
            sys.exit(f"pipecast {' '.join(arguments)}: exit code {result.returncode}\n{result.stderr}")
        return result.stdout

    def done(self, run):
        """Weights and test loss of a run that came to its end."""
        line = json.loads((self.folder / run / "metrics.jsonl").read_text().splitlines()[-1])
        assert line["event"] == "done", line
        return {"weights": line["weights_digest"], "test_loss": line["test_loss"]}

    def train(self, name):
        run = re.sub("[^a-z0-9]+", "-", name)
        self.command("train", *SHARED, *RUNS[name], "--out", run)
        return self.done(run)

    def interrupted(self):
        """Stopped by SIGINT after some checkpoint, and resumed. When the signal comes does not matter, nor that it may come too late."""
        process = subprocess.Popen([self.pipecast, "train", *SHARED, *INTERRUPTED, "--out", "interrupted"], cwd=self.folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        metrics = self.folder / "interrupted" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and '"event":"epoch"' in metrics.read_text()):
            time.sleep(.002)
        process.send_signal(signal.SIGINT)
        if process.wait(300) != 0:
            assert process.returncode == 3, process.returncode
            self.command("train", "--resume", "interrupted")
        return self.done("interrupted")

    def further(self):
        """Trained to its end, and resumed for another epoch."""
        self.command("train", *SHARED, *TRAINED_FURTHER, "--out", "further")
        self.command("train", "--resume", "further", "--epochs", "2")
        return self.done("further")

    def overflowing(self, *options):
        """Of a run that leaves no weights: the losses and gradient norms of its steps and the updates that each stage skipped, digested."""
        run = "overflowing" + "".join(options)
        self.command("train", *SHARED, *OVERFLOWING, *options, "--out", run, codes=(1,))
        lines = [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]
        steps = [(line["loss"], line["gradient_norm"]) for line in lines if line["event"] == "step"]
        skipped = [stage["skipped_updates"] for line in lines if line["event"] == "epoch" for stage in line["stages"]]
        assert skipped and max(skipped) > 0 and lines[-1]["event"] == "diverged", lines
        return {"weights": hashlib.sha256(json.dumps([steps, skipped]).encode()).hexdigest(), "test_loss": None}

    def evaluated(self):
        """`eval` of a finished run, and of its weights file."""
        line = json.loads(self.command("eval", "--run", "not-interrupted", "--data", "generated:24", "--threads", "1", "--json"))
        return {"weights": line["weights_digest"], "test_loss": line["test_loss"]}

    def all(self, only):
        extra = {"interrupted and resumed": self.interrupted, "one epoch, then another": self.further,
                 "updates skipped": self.overflowing, "updates skipped, sequential": lambda: self.overflowing(*SEQUENTIAL)}
        results = {}
        # Two at a time; the number of threads of each is fixed, and with it the result.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            futures = {name: pool.submit(self.train, name) for name in RUNS if only in name}
            futures |= {name: pool.submit(run) for name, run in extra.items() if only in name}
            for name, future in futures.items():
                results[name] = future.result()
        if "not interrupted" in results:
            results["evaluated"] = self.evaluated()
        return results


def fingerprint(pipecast, build):
    """What the bits of a result depend on beside the code."""
    info = json.loads(subprocess.run([pipecast, "info", "--json"], capture_output=True, text=True, check=True).stdout)
    cpu = pathlib.Path("/proc/cpuinfo")
    flags = set(re.search(r"^(?:flags|Features)\s*:(.*)$", cpu.read_text(), re.M)[1].split()) if cpu.exists() else set()
    vectors = sorted(flag for flag in flags if re.match("sse|ssse|avx|fma|f16c|amx|bmi|asimd|sve|bf16", flag))
    return {"architecture": platform.machine(), "vectors": " ".join(vectors), "compiler": info["compiler"], "cuda": info["cuda"],
            "libraries": [name for name in info["libraries"] if name.startswith("oneDNN")], "libc": " ".join(platform.libc_ver()),
            "build": build}


def differences(first, second, found, expected):
    """A line per run that both have and that differs."""
    return [f"{name}: {first} {found[name]}, {second} {expected[name]}"
            for name in found if name in expected and found[name] != expected[name]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipecast")
    parser.add_argument("--against")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--build", default="optimization=3 machine=native sanitize=none")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipecast-digests-") as folder:
        results = Runner(arguments.pipecast, folder).all(arguments.only)
    for name, result in results.items():
        print(f"{result['weights']}  {result['test_loss']}  {name}")
    print(f"{len(results)} runs in {time.monotonic() - begin:.0f} s")

    mistakes = [f"'{one}' and '{other}' must be the same, and are {results[one]} and {results[other]}"
                for one, other in PAIRS if one in results and other in results and results[one] != results[other]]
    code = 0
    if arguments.against:
        with tempfile.TemporaryDirectory(prefix="pipecast-digests-") as folder:
            mistakes += differences("here", "there", results, Runner(arguments.against, folder).all(arguments.only))
    elif arguments.write:
        table = {"fingerprint": fingerprint(arguments.pipecast, arguments.build), "runs": results}
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    else:
        table, here = json.loads(TABLE.read_text()), fingerprint(arguments.pipecast, arguments.build)
        other = [f"{key}: recorded with '{value}', here '{here[key]}'" for key, value in table["fingerprint"].items() if here[key] != value]
        if other:
            print("the recorded digests are not compared, rounding may be different here:", *other, sep="\n  ")
            code = 77
        else:
            mistakes += differences("now", "recorded", results, table["runs"])
            if not arguments.only and set(results) != set(table["runs"]):
                mistakes.append(f"other runs than recorded: {sorted(set(results) ^ set(table['runs']))}; record the table with --write")
    if mistakes:
        print(*mistakes, sep="\n", file=sys.stderr)
    return 1 if mistakes else code


if __name__ == "__main__":
    sys.exit(main())
