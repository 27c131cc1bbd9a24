"""The configurations of the papers, each for an epoch or a few on a part of its data: what the column "here" of docs/experiments.md says.

    python3 bench/experiments.py build/app/pipecast --cifar10 DIR --cifar100 DIR --tiny-imagenet DIR --out runs/experiments

cifar10, cifar100: the folders with the binary files. tiny-imagenet: the folder with train/CLASS/images; of it, ten classes are taken, at a
size that a processor trains in minutes. A run that has ended is not run again. A line per run: best test accuracy in percent, the pictures,
the epochs and the minutes of training.
"""
import argparse
import json
import pathlib
import subprocess
import time

from fifty_steps import RECORD, tiny_imagenet_subset

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
# Configuration, training pictures, side of the images (0: as the pictures are), epochs.
EXPERIMENTS = [
    ("pipeoptim-alexnet-tiny-imagenet", 5000, 64, 5),
    ("pipeoptim-resnet101-tiny-imagenet", 5000, 64, 2),
    ("pipeoptim-inception-v3-tiny-imagenet", 5000, 96, 2),
    ("pipeoptim-vgg16-cifar100", 2000, 0, 5),
    ("pipeoptim-googlenet-cifar100", 2000, 0, 1),
    ("spectrain-vgg16-cifar10", 2000, 0, 1),
    ("spectrain-resnet50-cifar10", 5000, 0, 2),
    ("spectrain-densenet121-cifar10", 2000, 0, 1),
    ("spectrain-googlenet-cifar10", 2000, 0, 1),
]


def cifar_subset(source, folder, name, pictures):
    """The first records of each file, 1,000 for testing."""
    folder.mkdir(parents=True)
    if name == "cifar100":
        for part, count in (("train", pictures), ("test", 1000)):
            (folder / f"{part}.bin").write_bytes((source / f"{part}.bin").read_bytes()[: (RECORD + 1) * count])
        return
    for k in range(1, 6):
        (folder / f"data_batch_{k}.bin").write_bytes((source / f"data_batch_{k}.bin").read_bytes()[: RECORD * pictures // 5])
    (folder / "test_batch.bin").write_bytes((source / "test_batch.bin").read_bytes()[: RECORD * 1000])


def data_of(config, arguments, pictures):
    name = next(name for name in ("cifar100", "cifar10", "tiny-imagenet") if config.endswith(name))
    folder = arguments.out / f"{name}-{pictures}"
    if name == "tiny-imagenet":
        if not folder.exists():
            folder.mkdir(parents=True)
            tiny_imagenet_subset(arguments.tiny_imagenet, folder, pictures)
        return f"folder:{folder}"
    if not folder.exists():
        cifar_subset(arguments.cifar100 if name == "cifar100" else arguments.cifar10, folder, name, pictures)
    return f"{name}:{folder}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipecast")
    for name in ("--cifar10", "--cifar100", "--tiny-imagenet", "--out"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="some of them, as in pipeoptim-vgg16-cifar100,spectrain-vgg16-cifar10")
    arguments = parser.parse_args()
    for config, pictures, side, epochs in EXPERIMENTS:
        if arguments.only and config not in arguments.only.split(","):
            continue
        out = arguments.out / config
        if not (out / "result.txt").exists():
            size = ["--image-size", str(side), "--resize", str(side + side // 8)] if side else []
            begin = time.monotonic()
            subprocess.run([arguments.pipecast, "train", "--config", CONFIGS / f"{config}.toml", "--data",
                            data_of(config, arguments, pictures), *size, "--epochs", str(epochs), "--log-every", "10", "--overwrite", "--out",
                            out], check=True, stdout=subprocess.DEVNULL)
            minutes = (time.monotonic() - begin) / 60
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            best = max(line["test_accuracy"] for line in lines if line["event"] == "epoch" and "test_accuracy" in line)
            said = f"{100 * best:.1f} %, {pictures} pictures, side {side or 32}, {epochs} epochs, {minutes:.1f} minutes"
            (out / "result.txt").write_text(said + "\n")
        print(f"{config:40}", (out / "result.txt").read_text().strip(), flush=True)


if __name__ == "__main__":
    main()
