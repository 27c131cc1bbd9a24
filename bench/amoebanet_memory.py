"""Memory of AmoebaNet-D (L, F) by `pipecast plan`, beside the published one: the sizes, balances and micro-batches of torchgpipe's benchmark
of memory (Kim et al. 2020; GPipe's table 1, Huang et al. 2018). Nothing is trained or allocated.

    python3 bench/amoebanet_memory.py build/app/pipecast

128 images of 224x224, RMSprop without momentum; micro-batches of one image, all but the last recomputed, except for the first row, which
is one pass of 128. GiB: parameters are weights, gradients and the optimizer's state; activations are all else.
"""

import json
import subprocess
import sys

# L, F, the parts of each stage; published: parameters, GiB of the model and of activations (torchgpipe), GB of activations (Huang et al.).
ROWS = [(18, 208, [24], "81.5 M", 0.91, "out of memory", 6.26),
        (18, 416, [24], "319.0 M", 3.57, 0.91, 3.46),
        (18, 544, [16, 8], "542.7 M", 6.07, 3.39, 8.11),
        (36, 544, [16, 12, 7, 7], "1.06 B", 11.80, 6.91, 15.21),
        (72, 512, [23, 16, 11, 6, 6, 5, 5, 6], "1.84 B", 20.62, 10.83, 26.24)]


def plan(pipecast, layers, filters, balance, micro_batches):
    command = [pipecast, "plan", "--model", f"amoebanet_d_{layers}x{filters}", "--image", 224, "--classes", 1000, "--batch", 128,
               "--micro-batches", micro_batches, "--stages", len(balance), "--partition", ",".join(map(str, balance)), "--method", "gpipe",
               "--recompute", "except-last" if micro_batches > 1 else "never", "--optimizer", "rmsprop", "--momentum", 0, "--memory-only",
               "--json"]
    return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout)


def main():
    print("| stages | (L, F) | parameters, published | here | model, torchgpipe | here | activations, torchgpipe | here "
          "| activations, Huang et al. (GB) |\n|---|---|---|---|---|---|---|---|---|")
    for layers, filters, balance, count, model, activations, huang in ROWS:
        found = plan(sys.argv[1], layers, filters, balance, 1 if filters == 208 else 128)
        stages = found["stage_plans"]
        of_model = sum(stage["weight_bytes"] + stage["gradient_bytes"] + stage["state_bytes"] for stage in stages)
        parameters = sum(stage["parameters"] for stage in stages)
        print(f"| {len(balance)} | ({layers}, {filters}) | {count} | {parameters:,} | {model:.2f} | {of_model / 2**30:.2f} | {activations} "
              f"| {(found['memory_bytes'] - of_model) / 2**30:.2f} | {huang} |", flush=True)


if __name__ == "__main__":
    main()
