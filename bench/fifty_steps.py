"""Every vision model in four stages with PipeOptim, for fifty updates on real pictures: does the loss fall?

    python3 bench/fifty_steps.py build/app/pipecast --cifar10 DIR --tiny-imagenet DIR

cifar10: the folder with data_batch_1.bin. tiny-imagenet: the folder with train/CLASS/images. A subset of 1,600 pictures is trained on once,
in mini-batches of 32. A line per model: the mean loss of updates 1 to 10 and of 41 to 50, and samples per second.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

UPDATES, BATCH = 50, 32
RECORD = 3073  # bytes of a CIFAR-10 picture with its label
# Model, side of its images, optimizer, learning rate. Those of up to 32 pixels train on CIFAR-10, the others on Tiny-ImageNet.
MODELS = [("resnet9", 32, "sgd", 0.01), ("resnet20", 32, "sgd", 0.02), ("vgg16_cifar", 32, "sgd", 0.005),
          ("googlenet_cifar", 32, "sgd", 0.01), ("densenet121_cifar", 32, "sgd", 0.01), ("resnet18", 64, "adam", 0.001),
          ("resnet50", 64, "adam", 0.001), ("resnet101", 64, "adam", 0.0003), ("alexnet", 64, "adam", 0.0003),
          ("vgg16_bn", 64, "sgd", 0.005), ("googlenet", 64, "sgd", 0.01), ("densenet121", 64, "sgd", 0.01),
          ("mobilenet_v2", 64, "adam", 0.002), ("inception_v3", 96, "adam", 0.001),
          ("amoebanet_d_3x16", 64, "adam", 0.003)]


def cifar10_subset(source, folder):
    for k in range(1, 6):
        records = (source / f"data_batch_{k}.bin").read_bytes()
        (folder / f"data_batch_{k}.bin").write_bytes(records[: RECORD * UPDATES * BATCH // 5])
    (folder / "test_batch.bin").write_bytes((source / "test_batch.bin").read_bytes()[: RECORD * 100])


def tiny_imagenet_subset(source, folder, pictures_of_all=UPDATES * BATCH):
    """The first ten classes, so many pictures of them, as folders of links."""
    classes = sorted(path for path in (source / "train").iterdir() if path.is_dir())[:10]
    of_class = pictures_of_all // len(classes)
    for path in classes:
        pictures = sorted((path / "images").iterdir())
        for part, some in (("train", pictures[:of_class]), ("val", pictures[-50:])):
            (folder / part / path.name).mkdir(parents=True)
            for picture in some:
                (folder / part / path.name / picture.name).symlink_to(picture.resolve())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipecast")
    parser.add_argument("--cifar10", type=pathlib.Path, required=True)
    parser.add_argument("--tiny-imagenet", type=pathlib.Path, required=True)
    parser.add_argument("--models", default="", help="some of them, as in resnet18,alexnet")
    arguments = parser.parse_args()
    chosen = arguments.models.split(",") if arguments.models else [name for name, *_ in MODELS]
    risen = []
    with tempfile.TemporaryDirectory(prefix="pipecast-fifty-steps-") as temporary:
        folder = pathlib.Path(temporary)
        (folder / "cifar10").mkdir(), (folder / "tiny").mkdir()
        cifar10_subset(arguments.cifar10, folder / "cifar10")
        tiny_imagenet_subset(arguments.tiny_imagenet, folder / "tiny")
        for model, side, optimizer, rate in MODELS:
            if model not in chosen:
                continue
            data = ["--data", f"cifar10:{folder / 'cifar10'}"] if side == 32 else ["--data", f"folder:{folder / 'tiny'}", "--image-size", str(side)]
            out = folder / model
            subprocess.run([arguments.pipecast, "train", "--model", model, *data, "--stages", "4", "--method", "pipeoptim", "--batch", str(BATCH),
                            "--epochs", "1", "--optimizer", optimizer, "--lr", str(rate), "--lr-schedule", "constant",
                            "--log-every", "10", "--out", out], check=True, stdout=subprocess.DEVNULL)
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            losses = [line["loss"] for line in lines if line["event"] == "step"]
            speed = next(line["images_per_second"] for line in lines if line["event"] == "epoch")
            print(f"{model:18} {side:3} pixels  loss {losses[0]:.3f} to {losses[-1]:.3f}  {speed:.0f} samples/s", flush=True)
            if not losses[-1] < losses[0]:
                risen.append(model)
    if risen:
        sys.exit("the loss did not fall: " + ", ".join(risen))


if __name__ == "__main__":
    main()
