"""Memory of AmoebaNet-D (L, F) by `pipecast plan`, beside the published one: the sizes, balances and micro-batches of torchgpipe's benchmark
of memory (Kim et al. 2020; GPipe's table 1, Huang et al. 2018). Nothing is trained or allocated.

    python3 bench/amoebanet_memory.py build/app/pipecast

128 images of 224x224, RMSprop without momentum; micro-batches of one image, all but the last recomputed, except for the first row, which
is one pass of 128. GiB: parameters are weights, gradients and the optimizer's state; activations are all else.
"""

import json
import subprocess
import sys

# L, F, the parts of each stage, and what torchgpipe and Huang et al. say: parameters, GiB or GB of the model and of activations.
ROWS = [(18, 208, [24], "81.5 M", 0.91, "out of memory", 1.05, 6.26),
        (18, 416, [24], "319.0 M", 3.57, 0.91, 3.8, 3.46),
        (18, 544, [16, 8], "542.7 M", 6.07, 3.39, 6.45, 8.11),
        (36, 544, [16, 12, 7, 7], "1.06 B", 11.80, 6.91, 12.53, 15.21),
        (72, 512, [23, 16, 11, 6, 6, 5, 5, 6], "1.84 B", 20.62, 10.83, 24.62, 26.24)]


def plan(pipecast, layers, filters, balance, micro_batches):
    command = [pipecast, "plan", "--model", f"amoebanet_d_{layers}x{filters}", "--image", 224, "--classes", 1000, "--batch", 128,
               "--micro-batches", micro_batches, "--stages", len(balance), "--partition", ",".join(map(str, balance)), "--method", "gpipe",
               "--recompute", "except-last" if micro_batches > 1 else "never", "--optimizer", "rmsprop", "--momentum", 0, "--memory-only",
               "--json"]
    return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout)


def main():
    print("| stages | (L, F) | parameters | model, torchgpipe | model, plan | activations, torchgpipe | activations, Huang et al. | activations, plan |")
    print("|---|---|---|---|---|---|---|---|")
    for layers, filters, balance, count, model, activations, _, huang in ROWS:
        p = plan(sys.argv[1], layers, filters, balance, 1 if filters == 208 else 128)
        stages = p["stage_plans"]
        of_model = sum(s["weight_bytes"] + s["gradient_bytes"] + s["state_bytes"] for s in stages)
        millions = sum(s["parameters"] for s in stages) / 1e6
        print(f"| {len(balance)} | ({layers}, {filters}) | {count}, {millions:.1f} M | {model} | {of_model / 2**30:.2f} | {activations} | {huang} GB "
              f"| {(p['memory_bytes'] - of_model) / 2**30:.2f} |", flush=True)


if __name__ == "__main__":
    main()
