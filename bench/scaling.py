#!/usr/bin/env python3
"""Whether a deeper network is as fast per multiplication: images per second times FLOP per image, from ResNet-20 to ResNet-110.

    python3 bench/scaling.py build/app/pipecast

All depths in turns, so that a machine that grows slower does so for all of them; ratios to the first model are taken within a round. The
depths have the same layers in other numbers: their GFLOP/s should differ by little (15 % is what this project asks of itself).
"""
import argparse
import json
import statistics
import subprocess
import sys


def gflops(arguments, model):
    command = [arguments.pipecast, "bench", "step", "--model", model, "--batch", arguments.batch, "--threads", arguments.threads, "--seconds",
               arguments.seconds, "--json"]
    result = json.loads(subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout)
    print(f"{model}: {result['images_per_second']:.1f} images/s, {result['gflops_per_second']:.1f} GFLOP/s", file=sys.stderr)
    return result["gflops_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipecast", help="the pipecast binary")
    parser.add_argument("--models", default="resnet20,resnet32,resnet44,resnet56,resnet110", help="the first is what the others are compared with")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    models = arguments.models.split(",")
    rounds = [{model: gflops(arguments, model) for model in models} for _ in range(arguments.rounds)]
    results = {}
    for model in models:
        ratios = [speeds[model] / speeds[models[0]] for speeds in rounds]
        results[model] = {"gflops_per_second": statistics.median(speeds[model] for speeds in rounds), "ratio": statistics.median(ratios),
                          "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}
    if arguments.json:
        return print(json.dumps({"batch": arguments.batch, "threads": arguments.threads, "models": results}))
    for model, row in results.items():
        print(f"{model}: {row['gflops_per_second']:.1f} GFLOP/s, {row['ratio']:.3f} of {models[0]} "
              f"({row['ratio_lowest']:.3f} to {row['ratio_highest']:.3f})")


if __name__ == "__main__":
    main()
