"""The simulation beside the real thing: two stages on two cores, a thread each.

`pipecast simulate` measures the parts of the model and predicts how long a mini-batch takes from a fill of the pipeline to its drain;
`pipecast train` then trains as many mini-batches. Both in turn, so that a machine that grows slower does so for both. Nothing else
may run on the machine meanwhile: the load is printed.

    python3 bench/two_stages.py build/app/pipecast
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

METHODS = {"pipeoptim": 1, "vanilla": 1, "gpipe": 8}  # and micro-batches


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def predicted(arguments, pipeline):
    text = run(arguments.pipecast, "simulate", "--batch", arguments.batch, "--image", 32, "--minibatches", arguments.minibatches, *pipeline, "--json")
    return json.loads(text)["seconds"] / arguments.minibatches


def measured(arguments, pipeline):
    """The median of the epochs after the first, which warms up."""
    with tempfile.TemporaryDirectory(prefix="pipecast-two-stages-") as folder:
        out = pathlib.Path(folder) / "run"
        run(arguments.pipecast, "train", "--data", f"generated:{arguments.batch * arguments.minibatches}", "--batch", arguments.batch, "--executor",
            "threads", "--epochs", 1 + arguments.epochs, *pipeline, "--out", out)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["seconds"] for line in lines if line["event"] == "epoch"]
    return statistics.median(epochs[1:]) / arguments.minibatches


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipecast", help="the pipecast binary")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minibatches", type=int, default=40, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=2, help="of a round, without the first one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    seconds = {method: {"predicted": [], "measured": []} for method in METHODS}
    for _ in range(arguments.rounds):
        for method, micro_batches in METHODS.items():
            pipeline = ["--model", arguments.model, "--method", method, "--stages", 2, "--threads", 2, "--micro-batches", micro_batches]
            row = seconds[method]
            row["predicted"].append(predicted(arguments, pipeline))
            row["measured"].append(measured(arguments, pipeline))
            print(f"{method}: predicted {row['predicted'][-1] * 1e3:.1f} ms, measured {row['measured'][-1] * 1e3:.1f} ms a mini-batch, "
                  f"load {os.getloadavg()[0]:.2f}", file=sys.stderr)

    results = {}
    for method, row in seconds.items():
        ratios = [p / m for p, m in zip(row["predicted"], row["measured"])]
        results[method] = {"predicted_seconds": statistics.median(row["predicted"]), "measured_seconds": statistics.median(row["measured"]),
                           "ratio": statistics.median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}
    if arguments.json:
        print(json.dumps({"model": arguments.model, "batch": arguments.batch, "methods": results}))
        return
    print(f"{arguments.model}, batch {arguments.batch}, two stages: milliseconds a mini-batch")
    for method, r in results.items():
        print(f"{method:10} predicted {r['predicted_seconds'] * 1e3:7.1f}  measured {r['measured_seconds'] * 1e3:7.1f}  "
              f"predicted / measured {r['ratio']:.3f} ({r['ratio_lowest']:.3f} to {r['ratio_highest']:.3f})")


if __name__ == "__main__":
    main()
