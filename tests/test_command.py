"""Black-box tests of the pipecast command. Usage: python3 test_command.py path/to/pipecast [unittest arguments]"""
import json
import math
import os
import pathlib
import re
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

PIPECAST = os.path.abspath(sys.argv[1])
TRAIN = ["train", "--data", "generated:100", "--batch", "25", "--epochs", "1", "--threads", "1"]
RECORD = 3073  # bytes of a CIFAR-10 picture and its label


def read_safetensors(path):
    """{name: (type, shape, bytes)} and the metadata."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    block = data[8 + size :]
    return {n: (t["dtype"], t["shape"], block[slice(*t["data_offsets"])]) for n, t in header.items()}, metadata


def png(width, height, value, orientation=None):
    """A grey picture, with EXIF data where an orientation is given."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation or 1, 0, 0)
    rows = (b"\0" + bytes([value]) * width) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) +
            (chunk(b"eXIf", exif) if orientation else b"") + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def rgb_png(width, height, pixels):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + pixels[3 * width * y:3 * width * (y + 1)] for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_safetensors(path, tensors, metadata={}):
    header, block = {"__metadata__": metadata}, b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(block), len(block) + len(data)]}
        block += data
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + block)


class CommandTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pipecast-command-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_command(self, *arguments, **environment):
        return subprocess.run([PIPECAST, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True, timeout=300,
                              env={**os.environ, **environment})

    def succeed(self, *arguments, **environment):
        result = self.run_command(*arguments, **environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def refuse(self, arguments, *expected, mistakes=1, **environment):
        """Exit code 2, `mistakes` lines on stderr that hold the expected texts, and no file left behind."""
        before = sorted(self.folder.rglob("*"))
        result = self.run_command(*arguments, **environment)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stdout, "")
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), mistakes, result.stderr)
        for line in lines:
            self.assertTrue(line.startswith("pipecast: "), line)
        for text in expected:
            self.assertIn(text, result.stderr)
        self.assertEqual(sorted(self.folder.rglob("*")), before)

    def metrics(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def train(self, run, *arguments, **environment):
        """Trains into `run` and returns the digest of the weights."""
        out = self.succeed(*TRAIN, *arguments, "--out", run, **environment)
        done = self.metrics(run)[-1]
        self.assertEqual(done["event"], "done")
        self.assertEqual(out.splitlines()[-1], "weights sha256 " + done["weights_digest"])
        return done["weights_digest"]


class Help(CommandTest):
    def test_help_gets_one_started(self):
        text = self.succeed("--help")
        self.assertIn("pipecast train --data generated --stages 4", text)
        for command in ("train", "compare", "eval", "audit", "export", "import", "models", "info"):
            self.assertIn("\n  " + command + " ", text)
            own = self.succeed(command, "--help")
            self.assertIn("Usage: pipecast " + command, own)
            self.assertIn("pipecast " + command, own.split("Examples:")[1])

    def test_info(self):
        info = json.loads(self.succeed("info", "--json"))
        self.assertIn("resnet20", [model["name"] for model in info["models"]])
        self.assertLessEqual({"pipeoptim", "vanilla", "pipedream", "gpipe"}, {method["name"] for method in info["methods"]})
        self.assertEqual(info["optimizers"], ["sgd", "adam", "adamw", "nadam", "rmsprop", "muon"])
        self.assertIn("cpu", info["devices"])
        self.assertEqual({d["name"] for d in info["datasets"]}, {"cifar10", "cifar100", "cifar100-coarse", "mnist", "fashion-mnist", "folder", "tiny-imagenet",
                                                               "food101", "text", "columns", "generated", "generated-masks", "generated-recall",
                                                               "generated-translation", "generated-language"})
        self.assertIn(info["version"], self.succeed("--version"))
        self.assertIn("resnet20", self.succeed("info"))

    def test_models(self):
        self.assertRegex(self.succeed("models"), "mobilenet_v2 +224 +1000 +3.50 M +0.6[0-9] +[0-9]+")
        (model,) = json.loads(self.succeed("models", "--model", "vgg16", "--image", 32, "--classes", 10, "--json"))["models"]
        self.assertEqual((model["image"], model["classes"], model["parameters"]), (32, 10, 134301514))
        self.assertEqual(sum(part["parameters"] for part in model["parts"]), model["parameters"])
        # 32 x 32 x 64 outputs of 27 and of 576 products each.
        self.assertEqual([part["flops"] for part in model["parts"][:3]], [2 * 65536 * 27, 2 * 65536 * 576, 0])
        self.assertIn("features.30", self.succeed("models", "--model", "vgg16"))
        self.assertIn("cell4_reduction", self.succeed("models", "--model", "amoebanet_d_3x16"))
        self.refuse(["models", "--model", "amoebanet_d_4x16"], "layers that 3 divides")
        self.refuse(["models", "--model", "vgg17"], "unknown model 'vgg17'")
        self.refuse(["models", "--model", "alexnet", "--image", 32], "at least 63x63")


class BadUsage(CommandTest):
    def test_commands_and_options(self):
        self.refuse([], "which command?")
        self.refuse(["trian"], "'trian'", "did you mean 'train'?")
        self.refuse(["--data", "generated"], "the command comes first")
        self.refuse(["train", "--stges", "4"], "'--stges'", "did you mean '--stages'?")
        self.refuse(["train", "generated"], "'generated' is not understood")
        self.refuse(["train", "eval"], "'eval' is not understood")
        self.refuse(["train", "--data"], "--data needs a value")
        self.refuse(["train", "--lr="], "--lr needs a value")
        self.refuse(["train", "--out", "--overwrite"], "--out needs a value")

    def test_numbers(self):
        for option, value in [("lr", "abc"), ("lr", "nan"), ("lr", "1,2"), ("batch", "0"), ("batch", "1.5"), ("epochs", "-1"), ("stages", "0"),
                              ("micro-batches", "0"), ("seed", "-1"), ("seed", "99999999999999999999"), ("threads", "2x"),
                              ("lr-milestones", "1,,2"), ("lr-milestones", "1,2,"), ("eval-every", "0"), ("log-every", "0"), ("trace", "-1"), ("trace", "2.5")]:
            with self.subTest(option=option, value=value):
                self.refuse([*TRAIN, f"--{option}={value}"], f"option --{option}: ", " number")
        for value in ("xyz", "2", "9" * 40, os.fsdecode(b"\xe9")):
            self.refuse([*TRAIN, f"--nesterov={value}"], "option --nesterov: '", "' is neither true nor false")
        self.refuse([*TRAIN, "--momentum", "1"], "momentum is 1.0")
        self.refuse([*TRAIN, "--label-smoothing", "1"], "label smoothing is 1.0")

    def test_every_number_has_a_range(self):
        commands = [["train"], ["compare"], ["eval"], ["audit"], ["draw"], ["plan"], ["simulate"], ["export"], ["import"],
                    *(["bench", name] for name in ("step", "layers", "optimizer", "pipeline"))]
        seen = set()
        for command in commands:
            options = re.findall(r"^  --([a-z0-9-]+) \S+=[0-9.,e+-]+ ", self.succeed(*command, "--help"), re.MULTILINE)
            for value in ("-1", "nan", "inf", "1e38", "9" * 40):
                with self.subTest(command=command, value=value):
                    result = self.run_command(*command, *(f"--{option}={value}" for option in options))
                    self.assertEqual(result.returncode, 2, result.stderr)
                    ranges = re.findall(rf"^pipecast: option --(\S+): '{value}' is not a (?:whole )?number from \S+ to \S+$", result.stderr, re.MULTILINE)
                    self.assertEqual(sorted(ranges), sorted(options), result.stderr)
            seen.update(options)
        self.assertLessEqual({"batch", "epochs", "threads", "lr", "seeds", "seed", "ahead", "message-bytes", "rounds", "image"}, seen)
        for option in ("epochs", "batch", "micro-batches", "stages", "threads", "eval-every", "log-every", "checkpoint-every", "trace"):
            self.refuse(["train", f"--{option}", 2**63 - 1], f"option --{option}: '{2**63 - 1}' is not a whole number from ")
        (self.folder / "config").write_text("epochs = 4611686018427387904\n")
        self.refuse(["train", "--config", "config"], "config:1: option --epochs: '4611686018427387904' is not a whole number from 1 to ")
        self.refuse(["compare", "--methods", f"vanilla+batch={2**63 - 1}"], "entry 'vanilla+batch=9223372036854775807': option --batch: ")
        self.refuse(["bench", "pipeline", "--methods", "gpipe:65537"], "'gpipe:65537' has no number of micro-batches from 1 to 65536")
        self.refuse(["train", "--data", "generated:9223372036854775807"], "is not a number of training pictures from 10 to 1000000")

    def test_products_of_numbers_are_bounded(self):
        self.refuse([*TRAIN, "--micro-batches", 65536], "25 samples cannot be cut into 65536 micro-batches")
        self.refuse([*TRAIN, "--stages", 4096], "11 parts", "4096 stages")
        self.refuse(["plan", "--stages", 4096], "11 parts", "4096 stages")
        together = "too many together"
        for command in ("audit", "draw"):
            self.refuse([command, "--stages", 4096, "--minibatches", 10**9], together)
            self.refuse([command, "--method", "gpipe", "--micro-batches", 65536, "--minibatches", 1000], together)
        self.refuse(["simulate", "--uniform", "--stages", 4096, "--micro-batches", 65536, "--chunks", 64, "--method", "interleaved"], together)
        self.refuse(["train", "--data", "generated:1000", "--batch", 1, "--stages", 4, "--epochs", 5000, "--eval-every", 5000], together, "--checkpoint-every N")
        self.refuse(["bench", "pipeline", "--minibatches", 10**9], together, mistakes=3)  # one for each method

    def test_names(self):
        for option, wrong, nearest in [("model", "resnet200", "resnet20"), ("method", "pipoptim", "pipeoptim"), ("optimizer", "sdg", "sgd"),
                                       ("lookahead", "papr", "paper"), ("lr-schedule", "cosin", "cosine"), ("augment", "flop", "flip"),
                                       ("executor", "thread", "threads"), ("device", "cdua", "cuda"), ("math", "tf23", "tf32"), ("data", "cifar", "cifar10"),
                                       ("partition", "balenced", "balanced")]:
            with self.subTest(option=option):
                self.refuse([*TRAIN, f"--{option}={wrong}"], f"'{wrong}'", f"did you mean '{nearest}'?")

    def test_what_takes_a_gpu(self):
        self.refuse([*TRAIN, "--math", "tf32"], "math 'tf32'", "the host computes in fp32 only")
        self.refuse([*TRAIN, "--cuda-graphs"], "CUDA graphs", "'cpu'", "leave --cuda-graphs out")

    def test_mistakes_are_reported_together(self):
        self.refuse(["train", "--lr", "abc", "--stges=4", "--epochs", "0"], "--lr", "--stges", "--epochs", mistakes=3)
        self.refuse([*TRAIN, "--model", "resnet2", "--method", "x", "--data", "cifar10:nowhere"], "'resnet2'", "'x'", "'nowhere'", mistakes=3)

    def test_stages_and_partition(self):
        self.refuse([*TRAIN, "--stages", "12"], "11 parts", "12 stages")
        self.refuse([*TRAIN, "--stages", "4", "--partition", "3,3,3,3"], "12 parts, not 11")
        self.refuse([*TRAIN, "--stages", "3", "--partition", "3,3,3,2"], "4 numbers, not 3")
        self.refuse([*TRAIN, "--stages", "2", "--partition", "11,0"], "'11,0'")

    def test_run_folder(self):
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "letter").write_text("dear")
        (self.folder / "file").write_text("")
        for overwrite in ([], ["--overwrite"]):
            self.refuse([*TRAIN, "--out", "mine", *overwrite], "'mine' holds other files")
            self.refuse([*TRAIN, "--out", "file", *overwrite], "'file' is not a folder")
        self.refuse([*TRAIN, "--out", "file/run"], "'file/run' cannot be made")

    def test_files(self):
        (self.folder / "rubbish").write_bytes(b"\x10\0\0\0\0\0\0\0rubbish")
        self.refuse([*TRAIN, "--weights", "nowhere"], "'nowhere'")
        self.refuse([*TRAIN, "--weights", "rubbish"], "'rubbish'")
        self.refuse(["eval", "--run", "nowhere"], "'nowhere' holds no run")
        self.refuse(["eval", "--data", "generated:100"], "either --run RUN or --weights FILE")
        self.refuse(["eval", "--weights", "rubbish", "--data", "generated:100"], "'rubbish'")
        self.refuse(["eval", "--weights", "rubbish"], "'rubbish'", "give --data", mistakes=2)
        self.refuse(["export", "--model", "resnet20"], "give --out")
        self.refuse(["export", "--out", "x"], "either --run RUN or --model NAME")
        self.refuse(["export", "--run", "nowhere", "--out", "x"], "'nowhere' holds no run")
        self.refuse(["import", "--weights", "rubbish", "--out", "x"], "'rubbish'")
        self.refuse(["audit", "--method", "vanila"], "did you mean 'vanilla'?")

    def test_config_files(self):
        for text, expected in [("stages = x", ":1: option --stages"), ("\n# c\nstges = 4", ":3: unknown option 'stges'; did you mean 'stages'?"),
                               ("stages 4", ":1: 'stages 4' is not understood"), ("[train]", ":1: '[train]'"), ("model = \"resnet20", "closing quote"),
                               ("model =", "no value"), ("seed = 1\nseed = 2", ":2: 'seed' is already given"), ("lr-milestones = [1]", "double quotes"),
                               ("model = \"resnet20\" x", "'x'"), ("nesterov = 1", "neither true nor false")]:
            with self.subTest(text=text):
                (self.folder / "config").write_text(text)
                self.refuse(["train", "--config", "config"], expected)
        (self.folder / "config").write_bytes(b"\xef\xbb\xbfseed = x\r\n")  # a byte order mark is no part of a name
        self.refuse(["train", "--config", "config"], ":1: option --seed: 'x'")
        self.refuse(["train", "--config", "nowhere"], "'nowhere'")
        self.refuse(["train", "--config", "."], "'.'")


class BadData(CommandTest):
    """CIFAR-10 folders with one defect."""

    def setUp(self):
        super().setUp()
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            (self.folder / name).write_bytes(b"".join(bytes([label]) * RECORD for label in range(4)))

    def refuse_data(self, *expected):
        self.refuse(["train", "--data", f"cifar10:{self.folder}", "--batch", 8, "--epochs", 1], *expected)

    def test_good_data(self):
        self.succeed("train", "--data", f"cifar10:{self.folder}", "--batch", 8, "--epochs", 1, "--threads", 1, "--augment", "crop,flip",
                     "--lr", ".001", "--out", "run")
        self.assertEqual([line["epoch"] for line in self.metrics("run") if line["event"] == "epoch"], [1])

    def test_missing_folder(self):
        self.refuse(["train", "--data", "cifar10:nowhere"], "'nowhere'")

    def test_missing_file(self):
        (self.folder / "data_batch_4.bin").unlink()
        self.refuse_data("data_batch_4.bin", "missing")

    def test_truncated_file(self):
        path = self.folder / "data_batch_3.bin"
        path.write_bytes(path.read_bytes()[:-1])
        self.refuse_data("data_batch_3.bin", "truncated")

    def test_label_out_of_range(self):
        path = self.folder / "test_batch.bin"
        data = bytearray(path.read_bytes())
        data[2 * RECORD] = 10
        path.write_bytes(data)
        self.refuse_data("test_batch.bin", "label 10", "record 2", "--bad-samples skip")
        out = self.succeed("train", "--data", f"cifar10:{self.folder}", "--batch", 8, "--epochs", 1, "--threads", 1, "--lr", ".001",
                           "--bad-samples", "skip", "--out", "run")
        self.assertIn("20 training and 3 test samples\n1 bad samples left out\n", out)
        self.assertEqual(self.metrics("run")[0]["bad_samples_skipped"], 1)
        self.assertEqual(json.loads(self.succeed("eval", "--run", "run", "--threads", 1, "--json"))["images"], 3)
        self.refuse(["eval", "--run", "run", "--bad-samples", "fail"], "record 2")
        self.refuse(["train", "--bad-samples", "skpi"], "'skpi'", "did you mean 'skip'?")


class Folders(CommandTest):
    def test_left_out(self):
        """What is left out of a data set is said by train, in its metrics, and by eval, which reads the data as the run did."""
        for part in ("train", "val"):
            for name, value in (("dark", 20), ("light", 220)):
                folder = self.folder / "data" / part / name
                folder.mkdir(parents=True)
                for k in range(4):
                    (folder / f"{k}.png").write_bytes(png(16, 32, value + k, orientation=6))
                (folder / "more.bmp").write_bytes(b"BM")
        types, turned = "files of other types left out: 4 (.bmp 4)", "pictures whose EXIF data say that they are stored turned or mirrored: 16, "
        options = ["--data", "folder:data", "--batch", 4, "--epochs", 1, "--threads", 1, "--lr", ".001"]
        out = self.succeed("train", *options, "--out", "stored")
        self.assertIn(f"8 training and 8 test samples\n{types}\n{turned}taken as stored; --orientation apply turns them upright\n", out)
        out = self.succeed("train", *options, "--orientation", "apply", "--out", "upright")
        notes = [types, turned + "turned upright"]
        self.assertIn("\n".join(notes) + "\n", out)
        self.assertEqual(self.metrics("upright")[0]["data_notes"], notes)
        out = self.succeed("eval", "--run", "upright", "--threads", 1)
        self.assertTrue(out.startswith("\n".join(notes) + "\nresnet20 on folder:data, 8 test samples"), out)
        self.assertEqual(json.loads(self.succeed("eval", "--run", "upright", "--threads", 1, "--json"))["data_notes"], notes)
        self.refuse(["train", "--orientation", "aply"], "'aply'", "did you mean 'apply'?")
        (self.folder / "data" / "train" / "medium").mkdir()
        self.refuse(["train", *options], "class folder 'data/train/medium' holds no pictures")

    def test_images_of_a_size(self):
        """Pictures of any size become images of one; eval takes them as the run did, and a run goes on with another cache."""
        for part in ("train", "val"):
            for name, value in (("dark", 20), ("light", 220)):
                folder = self.folder / "data" / part / name
                folder.mkdir(parents=True)
                for k in range(4):
                    (folder / f"{k}.png").write_bytes(png(20 + 3 * k, 32 - k, value + k))
        options = ["--data", "folder:data", "--batch", 4, "--threads", 1, "--lr", ".001"]
        self.refuse(["train", *options], "make all pictures of one size", "--image-size")
        self.refuse(["train", *options, "--resize", 20], "--resize 20 needs --image-size")
        sized = [*options, "--image-size", 16, "--resize", 18, "--augment", "random-resized-crop,flip,random-erasing:.5"]
        self.succeed("train", *sized, "--epochs", 2, "--cache", 0, "--out", "whole")
        self.succeed("train", *sized, "--epochs", 1, "--lr-schedule", "constant", "--out", "part")
        self.succeed("train", "--resume", "part", "--epochs", 2, "--cache", 0)
        self.succeed("train", *sized, "--epochs", 2, "--lr-schedule", "constant", "--out", "at-once")
        self.assertEqual((self.folder / "part" / "weights.safetensors").read_bytes(), (self.folder / "at-once" / "weights.safetensors").read_bytes())
        _, metadata = read_safetensors(self.folder / "whole" / "weights.safetensors")
        self.assertEqual((metadata["height"], metadata["width"]), ("16", "16"))
        as_the_run = json.loads(self.succeed("eval", "--run", "whole", "--threads", 1, "--json"))
        again = json.loads(self.succeed("eval", "--weights", "whole/weights.safetensors", "--data", "folder:data", "--image-size", 16, "--resize", 18,
                                        "--threads", 1, "--json"))
        self.assertEqual(as_the_run["test_loss"], again["test_loss"])
        self.refuse(["train", *self.texts(), "--image-size", 16], "--image-size 16 is for pictures")

    def texts(self):
        for part in ("train", "test"):
            for name in ("good", "bad"):
                folder = self.folder / "texts" / part / name
                folder.mkdir(parents=True)
                (folder / "1.txt").write_text(name)
        return ["--data", "text:texts", "--model", "bag-of-embeddings"]


class Output(CommandTest):
    def test_files_to_write_are_looked_at_first(self):
        self.succeed(*TRAIN, "--out", "run")
        self.succeed("export", "--run", "run", "--out", "weights")
        self.succeed("audit", "--stages", 2, "--minibatches", 4, "--export", "mine.csv")
        (self.folder / "link").symlink_to("run/weights.safetensors")
        checkpoint = next((self.folder / "run" / "checkpoints").iterdir()).relative_to(self.folder)
        before = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        for command, option in ((["eval", "--run", "run"], "--logits"), (["export", "--run", "run"], "--out"),
                                (["import", "--weights", "weights"], "--out"), (["draw", "--program", "mine.csv"], "--out"),
                                (["audit", "--program", "mine.csv"], "--export")):
            for path, expected in (("nowhere/x", "there is no such folder"), (".", "is a folder"), ("run/config", "is a file of the run in "),
                                   (f"{checkpoint}/stage-0.safetensors", "is a file of the run in ")):
                with self.subTest(command=command, path=path):
                    self.refuse([*command, option, path], f"option {option}: '{path}' ", expected)
        replaced = "is read by this command and would be overwritten"
        for path in ("run/weights.safetensors", "link", "run/../run/weights.safetensors"):
            self.refuse(["eval", "--run", "run", "--logits", path], replaced)
        self.refuse(["eval", "--weights", "weights", "--data", "generated:100", "--logits", "weights"], replaced)
        self.refuse(["import", "--weights", "weights", "--out", "./weights"], replaced)
        self.refuse(["draw", "--program", "mine.csv", "--out", "mine.csv"], replaced)
        expected = "is a file that the run in 'run' would replace"
        self.refuse([*TRAIN, "--weights", "run/weights.safetensors", "--out", "run", "--overwrite"], "option --weights", expected)
        self.refuse([*TRAIN, "--weights", "link", "--out", "run", "--overwrite"], "option --weights", expected)
        self.assertEqual({path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}, before)
        self.succeed("train", "--config", "run/config", "--out", "run", "--overwrite")  # the options are read before it goes

    def test_a_file_that_grows_too_large(self):
        """`ulimit -f`: exit code 1 and a sentence, as on a full disk."""
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 10, 20 << 10))
        result = subprocess.run([PIPECAST, *TRAIN, "--out", "run"], cwd=self.folder, capture_output=True, text=True, timeout=300, preexec_fn=limit)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, r"\Apipecast: cannot write 'run/.*': File too large; check the disk's free space.*\n\Z")

    def test_output_that_is_lost(self):
        """A full disk, or a closed output: exit code 1, whatever the command."""
        self.succeed(*TRAIN, "--out", "run")
        commands = [["--help"], ["--version"], ["train", "--help"], ["models"], ["info"], ["info", "--json"], ["audit"], ["draw"], ["simulate", "--uniform"],
                    ["plan", "--json"], ["eval", "--run", "run"], ["eval", "--run", "run", "--json"],
                    ["export", "--model", "resnet20", "--out", "weights"], ["bench", "step", "--batch", 2, "--seconds", ".01"],
                    [*TRAIN, "--out", "lost"]]
        for command in commands:
            for redirection in (">/dev/full", ">&-"):
                with self.subTest(command=command, redirection=redirection):
                    result = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", PIPECAST, *map(str, command), *(["--overwrite"] if "lost" in command else [])],
                                            cwd=self.folder, capture_output=True, text=True, timeout=300)
                    self.assertEqual(result.returncode, 1, result.stderr)
                    self.assertEqual(result.stderr, "pipecast: standard output cannot be written, and some of it is lost: is the disk full, or the output closed?\n")
        self.assertEqual(self.metrics("lost")[-1]["event"], "done")  # the work is not lost with it

    def test_names_that_are_not_utf8(self):
        """Of options: refused before any work. Of files that are found: no matter."""
        name = os.fsdecode(b"caf\xe9")
        for command in (["train", "--data", f"folder:{name}"], ["train", "--out", name], ["train", "--config", name], ["train", "--resume", name],
                        ["eval", "--run", name], ["eval", "--weights", name], ["compare", "--methods", name], ["export", "--out", name],
                        ["audit", "--program", name], ["simulate", "--costs", name]):
            with self.subTest(command=command):
                self.refuse(command, "option --", "caf?' is not UTF-8")
        (self.folder / "config").write_bytes(b"data = folder:caf\xe9\n")
        self.refuse(["train", "--config", "config"], "config:1: option --data: 'folder:caf?' is not UTF-8")
        os.remove(self.folder / "config")
        inside = self.folder / os.fsdecode(b"working folder \xe9")
        for part in ("train", "val"):
            for value, label in enumerate((b"\xe9t\xe9", "hiver \u2744".encode())):
                folder = inside / "data" / part / os.fsdecode(label)
                folder.mkdir(parents=True)
                (folder / os.fsdecode(b"\xff.png")).write_bytes(png(32, 32, 90 * value))
                (folder / os.fsdecode(b"a \xff.b\xffmp")).write_bytes(b"BM")
        (inside / "data" / "train" / os.fsdecode(b"\xe9t\xe9") / "bad.png").write_bytes(b"no picture")
        self.folder = inside
        options = ["--data", "folder:data", "--batch", 2, "--epochs", 1, "--threads", 1]
        self.refuse(["train", *options], "'data/train/?t?/bad.png'")
        out = self.succeed("train", *options, "--bad-samples", "skip", "--trace", 2, "--out", "run")
        self.assertIn("files of other types left out: 4 (.b?mp 4)", out)
        self.assertIn("files of other types left out: 4 (.b?mp 4)", json.loads(self.succeed("eval", "--run", "run", "--threads", 1, "--json"))["data_notes"])


class Training(CommandTest):
    def test_a_model_whose_cells_read_two_others(self):
        """Two tensors cross each border between stages. The model's sizes are in its name, in the files of weights too."""
        self.succeed(*TRAIN, "--model", "amoebanet_d_3x8", "--stages", 4, "--method", "pipeoptim", "--epochs", 3, "--lr", 0.02, "--out", "run")
        epochs = [json.loads(line) for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]
        losses = [epoch["train_loss"] for epoch in epochs if "train_loss" in epoch]
        self.assertLess(losses[-1], losses[0])
        self.assertIn("amoebanet_d_3x8", self.succeed("eval", "--weights", "run/weights.safetensors", "--data", "generated:100"))

    def check_epoch(self, line, epoch, stages):
        self.assertEqual(line["epoch"], epoch)
        for key in ("train_loss", "test_loss", "images_per_second", "learning_rate", "seconds"):
            self.assertGreater(line[key], 0, key)
        for key in ("train_accuracy", "test_accuracy"):
            self.assertTrue(0 <= line[key] <= 1, key)
        self.assertEqual(len(line["stages"]), stages)
        for stage in line["stages"]:
            self.assertTrue(0 < stage["busy"] <= 1.01, stage)
            self.assertGreaterEqual(stage["prediction_error"], 0)
            self.assertEqual(stage["skipped_updates"], 0)

    def test_run_folder_of_one_and_of_four_stages(self):
        for stages in (1, 4):
            with self.subTest(stages=stages):
                run = f"run{stages}"
                out = self.succeed(*TRAIN, "--epochs", 2, "--stages", stages, "--log-every", 3, "--lr", ".02", "--out", run)
                lines = self.metrics(run)
                self.assertEqual([line["event"] for line in lines], ["start", "step", "epoch", "step", "epoch", "done"])
                self.check_epoch(lines[2], 1, stages)
                self.check_epoch(lines[4], 2, stages)
                self.assertEqual([lines[i]["minibatch"] for i in (1, 3)], [3, 6])
                self.assertEqual([lines[i]["epochs"] for i in (1, 3)], [.75, 1.5])
                # When the last of four stages has its third loss, the first has not done its first update.
                self.assertEqual([lines[i]["gradient_norm"] is None for i in (1, 3)], [stages == 4, False])
                predicts = [stage["prediction_error"] > 0 for stage in lines[4]["stages"]]
                self.assertEqual(predicts, [True] * (stages - 1) + [False])
                start, done = lines[0], lines[5]
                self.assertEqual([s["copies"] for s in start["stages"]], [2] * (stages - 1) + [1])
                self.assertEqual([s["frames"] for s in start["stages"]], list(range(stages, 0, -1)))
                self.assertEqual(sum(s["parameters"] for s in start["stages"]), start["parameters"])
                self.assertEqual(done["test_accuracy"], lines[4]["test_accuracy"])
                self.assertEqual(done["updates"], 8)
                self.assertIn(done["weights_digest"], out)
                self.assertEqual(sorted(p.name for p in (self.folder / run).iterdir()),
                                 ["checkpoints", "config", "metrics.jsonl", "report.html", "weights-best.safetensors", "weights.safetensors"])
                report = (self.folder / run / "report.html").read_text()
                self.assertEqual(report.count("<svg"), 7)
                self.assertEqual(report.count("<title>norm, epoch"), 2 if stages == 1 else 1)
                for outside in ("http", "src=", "<link", "<script", "nan", "inf"):
                    self.assertNotIn(outside, report)

                # Evaluating the finished run gives what its last line says.
                result = json.loads(self.succeed("eval", "--run", run, "--json", "--batch", 25, "--threads", 1))
                self.assertEqual(result["weights_digest"], done["weights_digest"])
                self.assertEqual(result["test_accuracy"], done["test_accuracy"])
                self.assertAlmostEqual(result["test_loss"], done["test_loss"], delta=1e-4)

    def test_same_seed_same_digest(self):
        for optimizer in (["--lr", ".02"], ["--optimizer", "adamw", "--lr", ".001"]):
            with self.subTest(optimizer=optimizer):
                common = ["--stages", 4, "--epochs", 2, "--augment", "crop,flip", *optimizer, "--overwrite"]
                first = self.train("first", *common)
                self.assertEqual(self.train("second", *common), first)
                self.assertEqual(self.train("second", *common, "--executor", "sequential"), first)
                self.assertNotEqual(self.train("second", *common, "--method", "vanilla"), first)
                self.assertNotEqual(self.train("second", *common, "--seed", 2), first)

    def test_executors_with_two_threads_per_stage(self):
        common = ["--stages", 2, "--threads", 4, "--micro-batches", 2, "--lookahead", "exact"]
        self.assertEqual(self.train("first", *common), self.train("second", *common, "--executor", "sequential"))

    def test_environment_leaves_the_digest(self):
        for threads in (["--threads", 2], ["--stages", 2, "--threads", 4]):
            wanted = self.train("wanted", *threads, "--overwrite")
            for name, value in (("OMP_DYNAMIC", "true"), ("OMP_MAX_ACTIVE_LEVELS", "0"), ("OMP_NUM_THREADS", "3"),
                                ("ONEDNN_DEFAULT_FPMATH_MODE", "ANY")):
                with self.subTest(threads=threads, variable=name):
                    self.assertEqual(self.train("run", *threads, "--overwrite", **{name: value}), wanted)

    def test_fewer_threads_than_asked_for_are_refused(self):
        expected = "OMP_THREAD_LIMIT=1 allows fewer threads than the 2 asked for; unset it, or give --threads 1"
        for command in (["train"], ["plan"], ["simulate"], ["bench", "step"], ["bench", "layers"], ["bench", "optimizer"]):
            with self.subTest(command=command):
                self.refuse([*command, "--threads", 2], expected, OMP_THREAD_LIMIT="1")
        self.refuse(["compare", "--threads", 2, "--methods", "vanilla"], expected, OMP_THREAD_LIMIT="1")
        wanted = self.train("run")
        self.refuse(["eval", "--run", "run", "--threads", 2], expected, OMP_THREAD_LIMIT="1")
        # All threads that there may be.
        self.assertEqual(self.train("all", "--threads", 0, OMP_THREAD_LIMIT="1"), wanted)

    def test_options_without_effect(self):
        for options, option, sentence in (
                (["--lr-milestones", "1,2"], "lr-milestones", "with schedule cosine, only with multi-step"),
                (["--lr-gamma", ".5", "--lr-schedule", "polynomial"], "lr-gamma", "with schedule polynomial, only with step, multi-step"),
                (["--lr-step-epochs", "2"], "lr-step-epochs", "schedule cosine"), (["--lr-power", "3"], "lr-power", "schedule cosine"),
                (["--lr-final", ".1", "--lr-schedule", "constant"], "lr-final", "with schedule constant, only with cosine, polynomial"),
                (["--nesterov", "--optimizer", "adam"], "nesterov", "with optimizer adam, only with sgd"),
                (["--dampening", ".5", "--optimizer", "rmsprop"], "dampening", "optimizer rmsprop"),
                (["--momentum", ".5", "--method", "nadam-async"], "momentum", "optimizer nadam"), (["--alpha", ".5"], "alpha", "optimizer sgd"),
                (["--beta1", ".5"], "beta1", "optimizer sgd"), (["--beta2", ".5", "--optimizer", "rmsprop"], "beta2", "optimizer rmsprop"),
                (["--epsilon", ".5"], "epsilon", "optimizer sgd"), (["--momentum-decay", ".5"], "momentum-decay", "optimizer sgd"),
                (["--lookahead", "exact", "--method", "gpipe"], "lookahead", "with method gpipe, only with methods that predict"),
                (["--rescale-epochs", "1"], "rescale-epochs", "with method pipeoptim, only with pipemare")):
            with self.subTest(options=options):
                self.refuse([*TRAIN, *options], f"option --{option} has no effect ", sentence)
        # At its default an option is as good as not given: the configuration of a run lists them all.
        self.train("run", "--lr-gamma", ".1", "--lookahead", "paper", "--method", "vanilla")
        for method in ("spectrain-v1", "spectrain-v2", "xpipe", "spike-compensation-lwp"):
            self.train(method, "--lookahead", "exact", "--method", method)

    def test_batch_norm_of_one_value(self):
        model = ["train", "--data", "generated:40", "--model", "resnet18", "--epochs", 1, "--threads", 1]
        expected = "layer 'layer4.0.bn1' (batch_norm) has one value per channel in a pass of one sample"
        self.refuse([*model, "--batch", 1], expected)
        self.refuse([*model, "--batch", 39], expected, "--drop-last")
        self.refuse([*model, "--batch", 8, "--micro-batches", 8], expected, "fewer --micro-batches")

    def test_config_of_a_run_repeats_it(self):
        common = ["--stages", 3, "--partition", "5,3,3", "--optimizer", "sgd", "--lr", "0.00123", "--lr-schedule", "multi-step",
                  "--lr-milestones", "0.5,0.75", "--label-smoothing", ".1", "--nesterov", "--lookahead", "decayed", "--warmup-epochs", ".25"]
        first = self.train("first", *common)
        self.succeed("train", "--config", "first/config", "--out", "second")
        self.assertEqual(self.metrics("second")[-1]["weights_digest"], first)
        config = (self.folder / "first" / "config").read_text()
        self.assertEqual((self.folder / "second" / "config").read_text(), config)
        self.assertIn("\npartition = \"5,3,3\"\n", config)
        # The command line comes before the file.
        self.succeed("train", "--config", "first/config", "--out", "third", "--nesterov=false", "--seed", 7)
        third = (self.folder / "third" / "config").read_text()
        self.assertEqual(third, config.replace("nesterov = true", "nesterov = false").replace("seed = 1", "seed = 7"))

    def read_trace(self, run):
        """The tracks, and per track and category the names of the events."""
        events = json.loads((self.folder / run / "trace.json").read_text())
        tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
        names = {}
        for event in events:
            if event["ph"] == "X":
                names.setdefault((event["tid"], event["cat"]), []).append(event["name"])
        return tracks, names

    def test_trace(self):
        digest = self.train("plain", "--stages", "2")
        self.assertFalse((self.folder / "plain" / "trace.json").exists())
        self.assertEqual(self.train("traced", "--stages", "2", "--trace", "3"), digest)
        tracks, names = self.read_trace("traced")
        self.assertEqual(tracks, {0: "stage 0", 1: "stage 1"})
        for stage in tracks:
            self.assertEqual(names[stage, "forward"], ["F 0.0", "F 1.0", "F 2.0"])
            self.assertEqual(names[stage, "backward"], ["B 0.0", "B 1.0", "B 2.0"])
        # A run that goes on has a trace of its own where it is asked for; else it leaves what is there.
        self.assertNotIn("trace", (self.folder / "traced" / "config").read_text())
        self.succeed("train", "--resume", "traced", "--epochs", "2")
        self.assertEqual(self.read_trace("traced"), (tracks, names))
        self.succeed("train", "--resume", "traced", "--epochs", "3", "--trace", "1")
        self.assertEqual(self.read_trace("traced")[1][0, "forward"], ["F 8.0"])
        # Of a run that is shorter there is all; of another run in the folder there is nothing.
        self.succeed(*TRAIN, "--stages", "2", "--trace", "100", "--out", "traced", "--overwrite")
        self.assertEqual(len(self.read_trace("traced")[1][0, "forward"]), 4)
        self.succeed(*TRAIN, "--out", "traced", "--overwrite")
        self.assertFalse((self.folder / "traced" / "trace.json").exists())

    def test_measured_partition_is_kept(self):
        self.train("run", "--stages", 2, "--partition", "measured")
        config = (self.folder / "run" / "config").read_text()
        parts = [int(n) for n in config.split('partition = "')[1].split('"')[0].split(",")]
        self.assertEqual((len(parts), sum(parts)), (2, 11))

    def test_evaluation_now_and_then(self):
        self.train("run", "--epochs", 3, "--eval-every", 2, "--stages", 2, "--lr", ".01")
        epochs = [line for line in self.metrics("run") if line["event"] == "epoch"]
        self.assertEqual([line["epoch"] for line in epochs], [1, 2, 3])
        self.assertEqual([line["test_accuracy"] is None for line in epochs], [True, False, False])
        for line in epochs:
            self.assertGreater(line["train_loss"], 0)
        self.check_epoch(epochs[1], 2, 2)
        self.check_epoch(epochs[2], 3, 2)

    def test_overwrite(self):
        first = self.train("run")
        self.refuse([*TRAIN, "--out", "run"], "'run' holds a run already", "--overwrite")
        self.assertNotEqual(self.train("run", "--seed", 2, "--overwrite"), first)

    def test_default_run_folder(self):
        self.succeed(*TRAIN, "--method", "vanilla", "--seed", 5)
        self.assertTrue((self.folder / "runs" / "resnet20-vanilla-5" / "weights.safetensors").exists())

    def test_divergence_is_a_failed_run(self):
        result = self.run_command(*TRAIN, "--epochs", 3, "--lr", "1e9", "--trace", 12, "--out", "run")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"\Apipecast: \S+ on stage 0 \S.* not finite in the (forward|backward) of mini-batch \d; lower --lr.*\n\Z")
        self.assertFalse((self.folder / "run" / "weights.safetensors").exists())
        last = self.metrics("run")[-1]
        self.assertEqual((last["event"], last["epoch"], last["stage"], last["micro"]), ("diverged", 1, 0, 0))
        self.assertEqual(f"pipecast: {last['reason']}\n", result.stderr)
        self.assertIn(f"{last['layer']} on stage 0", last["reason"])
        self.assertIn(f"in the {last['direction']} of mini-batch {last['minibatch']};", last["reason"])
        self.assertIn("F 0.0", self.read_trace("run")[1][0, "forward"])
        self.refuse(["eval", "--run", "run"], "training did not come to the end")

    def test_updates_left_out_are_counted(self):
        # The weights stay finite, but the gradients overflow: every update is left out from then on.
        result = self.run_command(*TRAIN, "--lr", "1e9", "--stages", 2, "--non-finite", "skip", "--out", "run")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"\nepoch   1/1 .*  [1-4] updates left out\n")
        epoch, last = self.metrics("run")[-2:]
        self.assertGreater(max(stage["skipped_updates"] for stage in epoch["stages"]), 0)
        self.assertEqual((last["event"], last["epoch"], "layer" in last), ("diverged", 1, False))

    def test_stop_above_a_loss(self):
        common = [*TRAIN, "--epochs", 2, "--lr", ".02", "--log-every", 3, "--out", "run"]
        result = self.run_command(*common, "--stop-above", "1e-3")
        self.assertEqual(result.returncode, 1)
        step, last = self.metrics("run")[-2:]
        self.assertEqual((step["event"], step["minibatch"]), ("step", 3))
        self.assertEqual((last["event"], last["epoch"], last["minibatch"]), ("diverged", 1, 2))
        self.assertIn(f"at mini-batch 3, is {step['loss']:.4g}, above --stop-above 0.001: lower --lr", result.stderr)
        self.succeed(*common, "--stop-above", "1e3", "--overwrite")


class MetricsOfOthers(CommandTest):
    def test_damaged_lines(self):
        """A line of metrics.jsonl that no run writes is named; one that was cut off at the end is dropped."""
        self.train("run")
        path = self.folder / "run" / "metrics.jsonl"
        whole = path.read_text()
        lines = whole.splitlines(keepends=True)
        number = len(lines)
        for text, at in [(whole + "{}\n", number + 1), (whole + "null\n", number + 1), (whole + "7\n", number + 1), (whole + "\n", number + 1),
                         (whole + '{"event":7}\n', number + 1), (whole + '{"event":"other"}\n', number + 1), ("".join(lines[1:]), 1),
                         (whole.replace('"memory_mebibytes"', '"memory"', 1), 1), (whole.replace('"weights_digest"', '"digest"'), number),
                         (whole.replace('"epoch":1', '"epoch":"one"', 1), None), (lines[0] + "not JSON\n" + "".join(lines[1:]), 2)]:
            with self.subTest(text=text[-40:], at=at):
                path.write_text(text)
                for command in (["train", "--resume", "run"], ["train", "--resume", "run", "--epochs", 2]):
                    result = self.run_command(*command)
                    self.assertEqual(result.returncode, 2, result.stderr)
                    self.assertRegex(result.stderr, "^pipecast: 'run/metrics.jsonl' line " + (str(at) if at else "[0-9]+") + " is not one that a run writes: ")
        for end in ("{", '{"event":"do', "nul"):
            path.write_text(whole + end)
            self.assertIn("run 'run' is done", self.run_command("train", "--resume", "run").stderr)


class Text(CommandTest):
    WORDS = {"pos": "a good and fine film", "neg": "a bad and dull film"}
    MODEL = ["--model", "bag-of-embeddings"]

    def setUp(self):
        super().setUp()
        for part, count in ("train", 40), ("test", 10):
            for label, words in self.WORDS.items():
                texts = self.folder / "texts" / part / label
                texts.mkdir(parents=True)
                for i in range(count):
                    (texts / f"{i}_5.txt").write_text(" ".join([words] * (1 + 7 * i % 40)))
        self.data = ["--data", f"text:{self.folder}/texts"]

    def test_trains_on_four_stages_and_goes_on(self):
        arguments = ["train", *self.data, *self.MODEL, "--stages", 4, "--batch", 8, "--lr", ".02", "--optimizer", "adam", "--threads", 1]
        out = self.succeed(*arguments, "--epochs", 3, "--out", "run")
        self.assertIn("80 training and 20 test samples", out)
        done = self.metrics("run")[-1]
        self.assertGreater(done["test_accuracy"], 0.9)
        self.succeed(*arguments, "--epochs", 3, "--executor", "sequential", "--out", "again")
        self.assertEqual(self.metrics("again")[-1]["weights_digest"], done["weights_digest"])
        evaluated = json.loads(self.succeed("eval", "--run", "run", "--threads", 1, "--json"))
        self.assertEqual(evaluated["test_accuracy"], done["test_accuracy"])
        self.assertEqual(read_safetensors(self.folder / "run" / "weights.safetensors")[1]["vocabulary"], "10000")

    def test_models_and_data_of_different_kinds(self):
        train = ["train", "--epochs", 1, "--out", "run"]
        self.refuse([*train, *self.data, "--model", "resnet20"], "input 'image'", "tokens, length, label")
        self.refuse([*train, "--data", "generated", *self.MODEL], "input 'tokens'", "image, label")
        self.refuse([*train, *self.data, *self.MODEL, "--augment", "crop"], "texts are not augmented")
        self.refuse(["train", "--data", f"text:{self.folder}", *self.MODEL], "train' cannot be read", "DIR/train/CLASS/*.txt")

    def test_weights_for_fewer_tokens_are_refused(self):
        self.succeed("export", *self.MODEL, "--classes", 2, "--out", "weights")
        tensors, metadata = read_safetensors(self.folder / "weights")
        kind, (_, width), block = tensors["embedding.weight"]
        tensors["embedding.weight"] = kind, [5, width], block[: 5 * width * 4]
        write_safetensors(self.folder / "few", tensors, metadata | {"vocabulary": "5"})
        self.refuse(["eval", "--weights", "few", *self.data], "5 different tokens", "10000")
        self.refuse(["train", "--weights", "few", *self.data, *self.MODEL, "--out", "run"], "5 different tokens", "10000")

    def test_a_language_model_of_bytes_from_plain_text_on_four_stages(self):
        (self.folder / "a.txt").write_text("the cat sat on the mat. " * 40)
        (self.folder / "b.txt").write_text("the mat sat on the cat. " * 4)
        prepare = [sys.executable, pathlib.Path(__file__).parent.parent / "data" / "prepare_text", "language", "prepared", "--train", "a.txt",
                   "--test", "b.txt", "--length", "16", "--tokenizer", "bytes"]
        subprocess.run(prepare, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        out = self.succeed("train", "--data", "columns:prepared", "--model", "gpt2-tiny-untied", "--stages", 4, "--batch", 64, "--batch-tokens", 128,
                           "--epochs", 2, "--optimizer", "adam", "--lr", ".003", "--out", "run")
        self.assertRegex(out, r"perplexity +[0-9.]+")
        first, last = [line["test_perplexity"] for line in self.metrics("run") if line["event"] == "epoch"]
        self.assertLess(last, min(first, 30))  # of 260 tokens, 14 occur
        evaluated = json.loads(self.succeed("eval", "--run", "run", "--json"))
        self.assertAlmostEqual(evaluated["test_perplexity"], last, delta=1e-3 * last)
        self.refuse(["train", "--data", "columns:prepared", *self.MODEL, "--out", "other"], "input 'label'", "length, target, tokens")
        self.refuse(["train", "--data", "columns:prepared", "--model", "gpt2-tiny", "--stages", 2, "--out", "other"], "not tied")
        self.refuse(["train", "--batch-tokens", 100, "--out", "other"], "--batch-tokens is for data sets of sequences")

    def test_a_translation_of_generated_digits(self):
        self.succeed("train", "--data", "generated-translation:copy:60", "--model", "gnmt-8-small", "--stages", 4, "--batch", 16, "--epochs", 1,
                     "--optimizer", "adam", "--lr", ".001", "--out", "run")
        self.assertGreater(self.metrics("run")[-2]["test_perplexity"], 1)

    def test_a_plan_reckons_with_the_length(self):
        def border(*arguments):
            return json.loads(self.succeed("plan", *self.MODEL, "--batch", 8, "--threads", 1, *arguments, "--json"))["parts"][0]["border_bytes"]

        self.assertEqual(border("--length", 128), 128 * border())
        self.assertEqual(border(), 8 * 64 * 4)


class Compare(CommandTest):
    COMPARE = ["compare", *TRAIN[1:], "--stages", 2, "--lr", ".02", "--out", "out"]

    def compare(self, *arguments):
        """The lines that name a run, and the entries of compare.json."""
        out = self.succeed(*self.COMPARE, *arguments)
        return [line for line in out.splitlines() if line.startswith("run ")], self.entries()

    def entries(self):
        return json.loads((self.folder / "out" / "compare.json").read_text())["entries"]

    def test_table(self):
        arguments = ["--epochs", 2, "--seeds", "1,2", "--methods", "vanilla+lr-schedule=multi-step+lr-milestones=1,,2,pipeoptim:exact+lr=.01+nesterov=true"]
        lines, entries = self.compare(*arguments)
        self.assertEqual([line.split(": ")[0] for line in lines], [f"run {i} of 4" for i in range(1, 5)])
        self.assertEqual([entry["entry"] for entry in entries], ["vanilla+lr-schedule=multi-step+lr-milestones=1,2", "pipeoptim:exact+lr=.01+nesterov=true"])
        folders = ["vanilla+lr-schedule=multi-step+lr-milestones=1-2-%d", "pipeoptim-exact+lr=.01+nesterov=true-%d"]
        for entry, folder, copies in zip(entries, folders, ([1, 1], [2, 1])):
            metrics = [self.metrics("out/" + folder % seed) for seed in (1, 2)]
            epochs = [[line for line in lines if line["event"] == "epoch"] for lines in metrics]
            for key, of in (("test_accuracy", lambda lines: lines[-1]["test_accuracy"]),
                            ("best_test_accuracy", lambda lines: max(line["test_accuracy"] for line in lines))):
                values = [of(lines) for lines in epochs]
                self.assertEqual(entry[key]["values"], values)
                self.assertAlmostEqual(entry[key]["mean"], statistics.mean(values))
                self.assertAlmostEqual(entry[key]["deviation"], statistics.stdev(values))
            speeds = [statistics.median(line["images_per_second"] for line in lines) for lines in epochs]
            self.assertAlmostEqual(entry["images_per_second"], statistics.median(speeds))
            self.assertEqual(entry["copies"], copies)
            self.assertEqual(entry["memory_mebibytes"], [stage["memory_mebibytes"] for stage in metrics[0][0]["stages"]])
            errors = [statistics.mean(line["stages"][k]["prediction_error"] for lines in epochs for line in lines) for k in (0, 1)]
            for error, expected in zip(entry["prediction_error"], errors):
                self.assertAlmostEqual(error or 0, expected)
            self.assertEqual([error is None for error in entry["prediction_error"]], [copies[0] == 1, True])
            self.assertEqual([run["weights_digest"] for run in entry["runs"]], [lines[-1]["weights_digest"] for lines in metrics])
        self.assertEqual((self.folder / "out" / "compare.md").read_text().count("\n| "), 3)
        report = (self.folder / "out" / "report.html").read_text()
        self.assertEqual((report.count("<svg"), report.count("fill-opacity")), (3, 6))
        for outside in ("http", "src=", "<link", "<script", "nan", "inf"):
            self.assertNotIn(outside, report)

        # A run is what `train` makes of the same options, and serves other commands.
        digest = self.train("alone", "--epochs", 2, "--stages", 2, "--lookahead", "exact", "--lr", ".01", "--nesterov", "--seed", 2)
        self.assertEqual(entries[1]["runs"][1]["weights_digest"], digest)
        run = "out/" + folders[1] % 2
        self.assertEqual((self.folder / run / "config").read_text(), (self.folder / "alone" / "config").read_text())
        result = json.loads(self.succeed("eval", "--run", run, "--json"))
        self.assertEqual(result["test_accuracy"], entries[1]["runs"][1]["test_accuracy"])

    def test_finished_runs_are_kept(self):
        lines, first = self.compare("--methods", "vanilla,gpipe", "--seeds", "1")
        self.assertEqual(first[0]["test_accuracy"]["deviation"], None)
        # One that was cut off is repeated, and new ones are added.
        metrics = self.folder / "out" / "gpipe-1" / "metrics.jsonl"
        metrics.write_text(metrics.read_text()[:-9])
        lines, second = self.compare("--methods", "vanilla,gpipe", "--seeds", "1,2", "--parallel", 3)
        self.assertEqual({line.split(": ")[1]: "kept" in line for line in lines},
                         {"vanilla, seed 1": True, "vanilla, seed 2": False, "gpipe, seed 1": False, "gpipe, seed 2": False})
        self.assertEqual(second[0]["runs"][0], first[0]["runs"][0])
        self.assertEqual(second[1]["runs"][0]["weights_digest"], first[1]["runs"][0]["weights_digest"])
        self.refuse([*self.COMPARE, "--methods", "vanilla", "--seeds", "1", "--momentum", ".8"],
                    "'out/vanilla-1' holds a run of another configuration: momentum is '0.9' there and '0.8' now", "--overwrite")
        lines, third = self.compare("--methods", "vanilla", "--seeds", "1", "--momentum", ".8", "--overwrite")
        self.assertNotIn("kept", lines[0])
        self.assertNotEqual(third[0]["runs"][0]["weights_digest"], first[0]["runs"][0]["weights_digest"])

    def test_shared_options_are_for_those_that_read_them(self):
        _, entries = self.compare("--methods", "vanilla,pipeoptim", "--seeds", "1", "--lookahead", "exact")
        for entry, mode in zip(entries, ("paper", "exact")):
            self.assertEqual(entry["runs"][0]["outcome"], "done")
            self.assertIn(f'lookahead = "{mode}"\n', (self.folder / entry["runs"][0]["folder"] / "config").read_text())
        self.assertIn("kept", self.compare("--methods", "vanilla,pipeoptim", "--seeds", "1", "--lookahead", "exact")[0][0])

    def test_divergence_is_a_row(self):
        for again in (False, True):
            lines, entries = self.compare("--methods", "vanilla+lr=1e9,vanilla", "--seeds", "1")
            self.assertIn("diverged at epoch 1", lines[0])
            self.assertEqual(["kept" in line for line in lines], [again, again])
            self.assertEqual(entries[0]["runs"], [{"seed": 1, "folder": "out/vanilla+lr=1e9-1", "outcome": "diverged", "epoch": 1}])
            self.assertEqual((entries[0]["test_accuracy"]["mean"], entries[0]["copies"]), (None, [1, 1]))
            self.assertEqual(entries[1]["runs"][0]["outcome"], "done")
        self.assertIn("| vanilla+lr=1e9 | - | - | diverged at epoch 1 |", (self.folder / "out" / "compare.md").read_text())
        self.assertEqual((self.folder / "out" / "report.html").read_text().count("vanilla+lr=1e9"), 2)  # table and configuration, no curve

    def test_failure_is_a_row(self):
        run = self.folder / "out" / "vanilla-1"
        (run / "weights.safetensors" / "in the way").mkdir(parents=True)
        for name in ("config", "metrics.jsonl"):
            (run / name).write_text("")
        result = self.run_command(*self.COMPARE, "--methods", "vanilla,gpipe", "--seeds", "1", "--overwrite")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"\Apipecast: 1 of 2 runs failed; .*\n\Z")
        failed, done = (entry["runs"][0] for entry in self.entries())
        self.assertEqual((failed["outcome"], done["outcome"]), ("failed", "done"))
        self.assertIn("failed with exit code 1", failed["failure"])
        self.assertTrue(failed["failure"].endswith((run / "log.txt").read_text().splitlines()[-1]))
        self.assertIn("weights.safetensors", failed["failure"])

    def test_mistakes(self):
        def refuse(methods, *expected, mistakes=1):
            self.refuse([*self.COMPARE, "--seeds", "1", "--methods", methods], *expected, mistakes=mistakes)

        refuse("vanila,gpipe:papr,vanilla+lr=abc,gpipe+lrr=1,gpipe+2", "entry 'vanila': unknown method 'vanila'", "entry 'gpipe:papr': unknown",
               "entry 'vanilla+lr=abc': option --lr", "did you mean 'lr'?", "'+2' is not understood", mistakes=5)
        refuse("vanilla,gpipe+momentum=1,gpipe+momentum=1+stages=3", "entries 'gpipe+momentum=1', 'gpipe+momentum=1+stages=3': momentum is 1")
        refuse("pipedream-2bw", "entry 'pipedream-2bw': ")  # fewer micro-batches than stages
        refuse("vanilla+seed=2", "--seeds")
        refuse("vanilla:exact,pipeoptim", "entry 'vanilla:exact': option --lookahead has no effect with method vanilla")
        refuse("vanilla,gpipe+alpha=.5", "entry 'gpipe+alpha=.5': option --alpha has no effect with optimizer sgd")
        self.refuse([*self.COMPARE, "--methods", "vanilla,gpipe", "--lookahead", "exact"], "option --lookahead has no effect with any of the entries")
        refuse("vanilla,gpipe,vanilla", "'out/vanilla-1' would hold two runs")
        for seeds in ("", "1,x", "-1", "1.5"):
            self.refuse([*self.COMPARE, f"--seeds={seeds}"], "--seeds")
        (self.folder / "out").mkdir()
        (self.folder / "out" / "config").write_text("")
        refuse("vanilla", "is the folder of a single run")


class Methods(CommandTest):
    def test_every_option_of_the_pipeline_reaches_the_run(self):
        """Each changes the weights, or may not and does not; the configuration repeats it."""
        plain = self.train("plain", "--stages", 2, "--micro-batches", 2)
        for name, options, same in (("sync", ["--synchronous-epochs", ".5"], False), ("clip", ["--clip-norm", ".01"], False),
                                    ("recompute", ["--recompute", "always"], False), ("deferred", ["--deferred-batch-norm"], False),
                                    ("except", ["--method", "1f1b-flush", "--recompute", "except-last"], True),
                                    ("halves", ["--method", "zero-bubble"], True), ("chunks", ["--method", "interleaved", "--chunks", 2], True)):
            with self.subTest(name=name):
                digest = self.train(name, "--stages", 2, "--micro-batches", 2, *options)
                wanted = self.train("flush", "--stages", 2, "--micro-batches", 2, "--method", "1f1b-flush", "--overwrite") if same else plain
                (self.assertEqual if same else self.assertNotEqual)(digest, wanted)
                self.assertEqual(self.train(name + " again", "--config", name + "/config"), digest)

    def test_method_brings_its_optimizer(self):
        digest = self.train("run", "--stages", 2, "--method", "nadam-async", "--lr", ".001")
        config = (self.folder / "run" / "config").read_text()
        self.assertIn('optimizer = "nadam"\nlr', config)
        self.assertIn("beta1 = 0.99\n", config)
        self.assertEqual(self.train("same", "--stages", 2, "--method", "pipedream", "--optimizer", "nadam", "--beta1", ".99", "--lr", ".001"), digest)
        self.refuse([*TRAIN, "--method", "nadam-async", "--optimizer", "sgd"], "is defined with the optimizer nadam, not sgd")
        self.refuse([*TRAIN, "--method", "spike-compensation", "--stages", 2, "--optimizer", "muon"], "muon does not know")

    def test_program_of_ones_own(self):
        self.succeed("audit", "--stages", 3, "--method", "pipedream", "--minibatches", 4, "--export", "mine.csv")
        digest = self.train("mine", "--program", "mine.csv")  # four mini-batches an epoch
        self.assertEqual(self.train("theirs", "--stages", 3, "--method", "pipedream"), digest)
        self.assertEqual(self.train("again", "--config", "mine/config"), digest)
        self.refuse([*TRAIN, "--batch", 20, "--program", "mine.csv"], "5 are trained")
        text = (self.folder / "mine.csv").read_text()
        (self.folder / "mine.csv").write_text("\n".join(line for line in text.split("\n") if ",step,3," not in line))
        self.refuse([*TRAIN, "--program", "mine.csv"], "is used by no step")


class Weights(CommandTest):
    def test_export_evaluate_and_start_from(self):
        digest = self.train("run", "--lr", ".01")
        self.assertIn(digest, self.succeed("export", "--run", "run", "--out", "weights.safetensors"))
        tensors, metadata = read_safetensors(self.folder / "weights.safetensors")
        self.assertEqual(metadata["model"], "resnet20")
        self.assertEqual(tensors["conv1.weight"][:2], ("F32", [16, 3, 3, 3]))
        self.assertEqual(tensors["bn1.num_batches_tracked"], ("I64", [], struct.pack("<q", 4)))
        self.assertEqual(tensors["fc.weight"][:2], ("F32", [10, 64]))

        options = ["--data", "generated:100", "--json", "--threads", 1]
        result = json.loads(self.succeed("eval", "--weights", "weights.safetensors", *options, "--logits", "logits.safetensors"))
        self.assertEqual(result, {**json.loads(self.succeed("eval", "--run", "run", *options)), "images_per_second": result["images_per_second"]})
        values, _ = read_safetensors(self.folder / "logits.safetensors")
        self.assertEqual(values["logits"][:2], ("F32", [25, 10]))
        self.assertEqual(values["labels"][:2], ("I64", [25]))
        logits, labels = struct.unpack("<250f", values["logits"][2]), struct.unpack("<25q", values["labels"][2])
        hits = sum(max(range(10), key=lambda c: logits[10 * i + c]) == labels[i] for i in range(25))
        self.assertAlmostEqual(hits / 25, result["test_accuracy"])

        # A learning rate of zero leaves the trained weights as they are; running statistics move on.
        self.train("more", "--weights", "weights.safetensors", "--lr", 0)
        more, _ = read_safetensors(self.folder / "more" / "weights.safetensors")
        self.assertEqual(more["fc.weight"], tensors["fc.weight"])
        self.assertNotEqual(more["bn1.running_mean"], tensors["bn1.running_mean"])

    def test_import_of_a_file_that_does_not_name_its_model(self):
        self.succeed("export", "--model", "resnet20", "--seed", 3, "--out", "named.safetensors")
        tensors, _ = read_safetensors(self.folder / "named.safetensors")
        write_safetensors(self.folder / "plain.safetensors", tensors)
        data = ["--data", "generated:100"]
        self.refuse(["eval", "--weights", "plain.safetensors", *data], "give --model")
        self.succeed("eval", "--weights", "plain.safetensors", "--model", "resnet20", *data)
        self.refuse(["import", "--weights", "plain.safetensors", "--model", "resnet32", "--out", "x"], "do not fit model 'resnet32'")
        self.refuse(["import", "--weights", "plain.safetensors", "--model", "resnet20", "--classes", 7, "--out", "x"], "fc.bias")
        for key, value in (("classes", "100001"), ("height", "99999999999999999999"), ("width", "0"), ("channels", "65")):
            write_safetensors(self.folder / "large.safetensors", {}, {"model": "resnet20", key: value})
            self.refuse(["import", "--weights", "large.safetensors", "--out", "x"], f"'{value}'", "a number from 1 to")
        # What other tools write under the same names is not ours to read; --model says what it is.
        write_safetensors(self.folder / "other.safetensors", tensors,
                          {"model": "resnet20.in1k", "classes": '["cat","dog"]', "height": "32px"})
        self.refuse(["import", "--weights", "other.safetensors", "--out", "x"], "'resnet20.in1k'", "no model of pipecast", "give --model")
        for name, metadata in (("resnet20.in1k", {"classes": '["cat","dog"]', "height": "32px"}), ("other", {"classes": "7", "height": "0"}),
                               ("resnet20", {"classes": '["cat","dog"]', "width": "99999", "channels": "1"}), ("", {"channels": "65"})):
            write_safetensors(self.folder / "other.safetensors", tensors, {"model": name, **metadata} if name else metadata)
            self.succeed("import", "--weights", "other.safetensors", "--model", "resnet20", "--out", "taken.safetensors")
            self.assertEqual(read_safetensors(self.folder / "taken.safetensors"), read_safetensors(self.folder / "named.safetensors"))
        self.succeed("import", "--weights", "plain.safetensors", "--model", "resnet20", "--out", "again.safetensors")
        self.assertEqual(read_safetensors(self.folder / "again.safetensors"), read_safetensors(self.folder / "named.safetensors"))
        self.refuse(["eval", "--weights", "again.safetensors", "--model", "resnet32", *data], "are of model 'resnet20', not 'resnet32'")

    def test_bad_values_are_refused_unless_allowed(self):
        self.train("run")
        good, metadata = read_safetensors(self.folder / "run" / "weights.safetensors")
        cases = (("conv1.weight", "<f", float("nan"), "1 with values that are not finite: conv1.weight (1)"),
                 ("bn1.running_mean", "<f", float("inf"), "1 with values that are not finite: bn1.running_mean (1)"),
                 ("bn1.running_var", "<f", -1.0, "1 with negative variances: bn1.running_var (1)"),
                 ("bn1.num_batches_tracked", "<q", 2**24 + 1, "bn1.num_batches_tracked (16777217)"),
                 ("bn1.num_batches_tracked", "<q", 2**63 - 1, "bn1.num_batches_tracked (9223372036854775807)"))
        for name, form, value, sentence in cases:
            with self.subTest(name=name, value=value):
                kind, shape, data = good[name]
                first = struct.pack(form, value)
                tensors = {**good, name: (kind, shape, first + data[len(first):])}
                write_safetensors(self.folder / "bad", tensors, metadata)
                write_safetensors(self.folder / "run" / "weights.safetensors", tensors, metadata)
                for command in (["import", "--weights", "bad", "--out", "x"], ["eval", "--weights", "bad", "--data", "generated:100"],
                                ["eval", "--run", "run"], ["export", "--run", "run", "--out", "x"],
                                [*TRAIN, "--weights", "bad", "--out", "x"]):
                    self.refuse(command, sentence, "--allow-bad-values")
                for command in (["import", "--weights", "bad"], ["export", "--run", "run"]):
                    self.succeed(*command, "--allow-bad-values", "--out", "taken")
                    if name != "bn1.num_batches_tracked":
                        self.assertEqual(read_safetensors(self.folder / "taken")[0], tensors)
                    else:
                        self.assertEqual(read_safetensors(self.folder / "taken")[0][name][2], struct.pack("<q", 2**24))
                self.succeed("eval", "--weights", "bad", "--data", "generated:100", "--allow-bad-values")
        # The last file differs in nothing that training computes with.
        self.train("more", "--weights", "bad", "--allow-bad-values", "--lr", 0)
        self.assertIn("allow-bad-values = true", (self.folder / "more" / "config").read_text())
        self.assertEqual(read_safetensors(self.folder / "more" / "weights.safetensors")[0]["conv1.weight"], good["conv1.weight"])

    def test_fine_tuning_into_another_number_of_classes(self):
        self.succeed("export", "--model", "resnet20", "--classes", 7, "--seed", 3, "--out", "seven.safetensors")
        given, _ = read_safetensors(self.folder / "seven.safetensors")
        write_safetensors(self.folder / "wrapped.safetensors", {"module." + name: tensor for name, tensor in given.items()})
        tune = [*TRAIN, "--weights", "seven.safetensors", "--epochs", 1]
        line = "layer fc begins anew: the weights have it for 7 classes, the data set has 10\n"
        self.assertIn(line, self.succeed(*tune, "--lr", 0, "--out", "same"))
        self.assertEqual(self.metrics("same")[0]["layers_begun_anew"], "fc")
        same, _ = read_safetensors(self.folder / "same" / "weights.safetensors")
        self.assertEqual(same["layer3.2.conv2.weight"], given["layer3.2.conv2.weight"])
        self.succeed("export", "--model", "resnet20", "--seed", 1, "--out", "fresh.safetensors")
        fresh, _ = read_safetensors(self.folder / "fresh.safetensors")
        self.assertEqual(same["fc.weight"], fresh["fc.weight"])  # as a new model of the run's seed
        self.assertEqual(same["fc.bias"], fresh["fc.bias"])
        self.assertIn(line, self.succeed(*tune[:-4], "--weights", "wrapped.safetensors", "--epochs", 1, "--lr", 0, "--out", "wrapped"))
        self.assertEqual(self.metrics("wrapped")[-1]["weights_digest"], self.metrics("same")[-1]["weights_digest"])

        out = self.succeed(*tune, "--freeze", "conv1,bn1,layer1.", "--head-lr", 5, "--no-decay", "norms-and-biases", "--stages", 2,
                           "--lr", .01, "--out", "tuned")
        self.assertIn("14480 parameters are frozen\n", out)
        tuned, _ = read_safetensors(self.folder / "tuned" / "weights.safetensors")
        for name in ("conv1.weight", "bn1.weight", "layer1.2.conv2.weight", "layer1.2.bn2.bias"):
            self.assertEqual(tuned[name], given[name])
        self.assertNotEqual(tuned["bn1.running_mean"], given["bn1.running_mean"])  # as in PyTorch, they are no parameters
        self.assertNotEqual(tuned["layer2.0.conv1.weight"], given["layer2.0.conv1.weight"])
        self.assertNotEqual(tuned["fc.weight"], fresh["fc.weight"])
        # Without changed options the file's own head is taken, and no line says otherwise.
        self.assertNotIn("begins anew", self.succeed(*TRAIN, "--weights", "fresh.safetensors", "--epochs", 1, "--out", "own"))

        self.refuse([*tune, "--freeze", "layer9", "--out", "x"], "unknown parameter, layer or block 'layer9'")
        self.refuse([*tune, "--freeze", "conv1,,fc", "--out", "x"], "unknown parameter, layer or block ''")
        self.refuse([*tune, "--freeze", "conv1,bn1,layer1,layer2,layer3,fc", "--out", "x"], "nothing is left to train")
        self.refuse([*tune, "--head-lr", 0, "--out", "x"], "above 0", "freeze it")
        self.refuse([*tune, "--no-decay", "biases", "--out", "x"], "'biases'", "norms-and-biases")
        self.refuse([*tune, "--no-decay", "norms-and-biases", "--weight-decay", 0, "--out", "x"], "has no effect")
        self.refuse([*tune, "--ema", 1, "--out", "x"], "below 1")
        # Another model stays another model.
        self.refuse([*TRAIN, "--model", "resnet32", "--weights", "seven.safetensors", "--out", "x"], "are of model 'resnet20'")

    def test_top_five_and_classes(self):
        self.train("run", "--lr", .01, "--epochs", 2)
        options = ["--run", "run", "--threads", 1]
        out = json.loads(self.succeed("eval", *options, "--json", "--logits", "logits.safetensors"))
        values, _ = read_safetensors(self.folder / "logits.safetensors")
        count = values["labels"][1][0]
        logits, labels = struct.unpack(f"<{10 * count}f", values["logits"][2]), struct.unpack(f"<{count}q", values["labels"][2])
        confusion, top5 = [[0] * 10 for _ in range(10)], 0
        for i, label in enumerate(labels):
            order = sorted(range(10), key=lambda c: -logits[10 * i + c])
            confusion[label][order[0]] += 1
            top5 += label in order[:5]
        self.assertEqual(out["confusion"], confusion)
        self.assertAlmostEqual(out["test_top5_accuracy"], top5 / count)
        for label, row in enumerate(out["classes"]):
            self.assertEqual(row["samples"], labels.count(label))
            self.assertAlmostEqual(row["accuracy"], confusion[label][label] / labels.count(label))
        self.assertAlmostEqual(sum(confusion[c][c] for c in range(10)) / count, out["test_accuracy"])
        epochs = [line for line in self.metrics("run") if line["event"] == "epoch"]
        self.assertAlmostEqual(epochs[-1]["test_top5_accuracy"], top5 / count)
        self.assertIn(f"among the top 5 {100 * top5 / count:.2f} %", self.succeed("eval", *options))
        report = (self.folder / "run" / "report.html").read_text()
        self.assertIn(f"Top-5 accuracy {100 * top5 / count:.2f} %", report)
        self.assertIn("Confusion matrix", report)
        self.assertIn("test, among the top 5", report)

    def test_early_stopping(self):
        out = self.succeed(*TRAIN, "--lr", 0, "--lr-schedule", "constant", "--momentum", 0, "--epochs", 9, "--patience", 2, "--out", "run")
        done = self.metrics("run")[-1]
        self.assertTrue(done["stopped_early"])
        self.assertEqual(done["epochs"], done["best_epoch"] + 2)
        self.assertIn("ended early: no better test accuracy in the last 2 epochs\n", out)
        self.assertIn(f"after {done['epochs']} epochs", out)
        self.assertEqual(read_safetensors(self.folder / "run" / "weights-best.safetensors")[1]["epoch"], str(done["best_epoch"]))
        self.succeed("eval", "--weights", "run/weights-best.safetensors", "--data", "generated:100")
        self.succeed("train", "--resume", "run", "--patience", 4)  # it may be changed
        self.assertEqual(self.metrics("run")[-1]["epochs"], min(9, done["best_epoch"] + 4))
        self.refuse([*TRAIN, "--patience", -1, "--out", "x"], "patience")

    def test_moving_average_is_evaluated_and_exported(self):
        self.train("plain", "--lr", .01)
        digest = self.train("averaged", "--lr", .01, "--ema", .9)
        lines = [self.metrics(run) for run in ("plain", "averaged")]
        self.assertNotEqual(digest, lines[0][-1]["weights_digest"])
        losses = [[line["train_loss"] for line in run if line["event"] == "epoch"] for run in lines]
        self.assertEqual(losses[0], losses[1])  # training does not read it
        self.assertNotEqual(lines[0][-1]["test_loss"], lines[1][-1]["test_loss"])
        out = json.loads(self.succeed("eval", "--run", "averaged", "--json", "--threads", 1, "--batch", 25))
        self.assertEqual(out["weights_digest"], digest)
        self.assertAlmostEqual(out["test_loss"], lines[1][-1]["test_loss"], 5)
        # Resumed half-way, it ends as it would have.
        self.train("half", "--lr", .01, "--ema", .9, "--lr-schedule", "constant", "--epochs", 1)
        self.succeed("train", "--resume", "half", "--epochs", 2)
        whole = self.train("whole", "--lr", .01, "--ema", .9, "--lr-schedule", "constant", "--epochs", 2)
        self.assertEqual(self.metrics("half")[-1]["weights_digest"], whole)

    def test_initial_weights_are_those_of_training(self):
        out = self.succeed("export", "--model", "resnet20", "--seed", 4, "--out", "a.safetensors")
        self.assertNotIn(out.split()[-1], self.succeed("export", "--model", "resnet20", "--seed", 5, "--out", "b.safetensors"))
        from_scratch = self.train("first", "--seed", 4)
        self.assertEqual(self.train("second", "--seed", 4, "--weights", "a.safetensors"), from_scratch)
        self.assertNotEqual(self.train("third", "--seed", 4, "--weights", "b.safetensors"), from_scratch)


class Predict(CommandTest):
    """Folders of pictures in noise, each class a little brighter than the one before."""
    SIDE = 8

    def setUp(self):
        super().setUp()
        random = __import__("random").Random(5)
        for part, count in (("train", 12), ("val", 3)):
            for number, name in enumerate(("ash", "birch", "cedar")):
                (self.folder / "data" / part / name).mkdir(parents=True)
                for i in range(count):
                    rows = bytes(random.randrange(70 * number, 70 * number + 110) for _ in range(self.SIDE * self.SIDE * 3))
                    (self.folder / "data" / part / name / f"{i}.png").write_bytes(rgb_png(self.SIDE, self.SIDE, rows))
        self.options = ["--model", "resnet20", "--data", "folder:data", "--batch", 9, "--epochs", 3, "--lr", .02, "--threads", 1]

    def test_predicts_what_evaluation_sees(self):
        self.succeed("train", *self.options, "--out", "run")
        self.succeed("eval", "--run", "run", "--logits", "logits", "--threads", 1)
        values, _ = read_safetensors(self.folder / "logits")
        logits = struct.unpack("<27f", values["logits"][2])
        out = json.loads(self.succeed("predict", "--run", "run", "data/val", "--json", "--threads", 1))
        self.assertEqual([p["picture"] for p in out["pictures"]],
                         [f"data/val/{name}/{i}.png" for name in ("ash", "birch", "cedar") for i in range(3)])
        self.assertEqual(out["failed"], [])
        self.assertEqual(out["weights_digest"], self.metrics("run")[-1]["weights_digest"])
        for i, picture in enumerate(out["pictures"]):
            row = logits[3 * i:3 * i + 3]
            total = sum(math.exp(z) for z in row)
            order = sorted(range(3), key=lambda c: -row[c])
            self.assertEqual([t["class"] for t in picture["top"]], order)
            self.assertEqual([t["name"] for t in picture["top"]], [("ash", "birch", "cedar")[c] for c in order])
            for t in picture["top"]:
                self.assertAlmostEqual(t["probability"], math.exp(row[t["class"]]) / total, 5)
        # One picture, in other batches, by an exported file, and by a file that does not say how pictures are prepared.
        one = out["pictures"][4]
        text = self.succeed("predict", "--run", "run", one["picture"], "--top", 1)
        self.assertEqual(text, f"{one['picture']}\n  {100 * one['top'][0]['probability']:6.2f} %  {one['top'][0]['name']}\n")
        self.succeed("export", "--run", "run", "--out", "exported")
        self.succeed("import", "--weights", "exported", "--out", "imported")
        tensors, metadata = read_safetensors(self.folder / "exported")
        write_safetensors(self.folder / "plain", tensors)
        for weights in (["--weights", "imported"], ["--weights", "run/weights-best.safetensors"],
                        ["--weights", "plain", "--model", "resnet20", "--data", "folder:data"]):
            again = json.loads(self.succeed("predict", *weights, "data/val", "--json", "--batch", 4, "--threads", 1))
            self.assertEqual([p["picture"] for p in again["pictures"]], [p["picture"] for p in out["pictures"]])
            if "best" not in weights[1]:
                for a, b in zip(again["pictures"], out["pictures"]):
                    self.assertAlmostEqual(a["top"][0]["probability"], b["top"][0]["probability"], 5)
        self.refuse(["predict", "--weights", "plain", "--model", "resnet20", "data/val"], "fc.bias")
        self.refuse(["predict", "data/val"], "either --run RUN or --weights FILE")
        self.refuse(["predict", "--run", "run", "data/vale"], "'data/vale' is not there")
        for damage in ("{", "[]", metadata["preparation"].replace('"mean":[', '"mean":[1,'), metadata["preparation"].replace("cedar", "cedar\",\"fir"),
                       metadata["preparation"].replace('"resize":0', '"resize":-1')):
            write_safetensors(self.folder / "damaged", tensors, {**metadata, "preparation": damage})
            self.refuse(["predict", "--weights", "damaged", "data/val"], "the file is damaged", "give --data")
        del metadata["preparation"]
        write_safetensors(self.folder / "silent", tensors, metadata)
        self.refuse(["predict", "--weights", "silent", "data/val"], "do not say how pictures are prepared", "--data")

    def test_grey_pictures(self):
        """A model of one channel, by pictures that are stored in three."""
        random = __import__("random").Random(6)
        pixels = [bytes(random.randrange(256) for _ in range(64)) for _ in range(20)]
        (self.folder / "idx").mkdir()
        for part in ("train", "t10k"):
            (self.folder / "idx" / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 20, 8, 8) + b"".join(pixels))
            (self.folder / "idx" / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 20) + bytes(i % 10 for i in range(20)))
        self.succeed("train", "--data", "mnist:idx", "--model", "resnet20", "--batch", 10, "--epochs", 1, "--threads", 1, "--out", "run")
        self.succeed("eval", "--run", "run", "--logits", "logits", "--threads", 1)
        logits = struct.unpack("<200f", read_safetensors(self.folder / "logits")[0]["logits"][2])
        (self.folder / "pictures").mkdir()
        for i, picture in enumerate(pixels):
            (self.folder / "pictures" / f"{i:02}.png").write_bytes(rgb_png(8, 8, bytes(value for value in picture for _ in range(3))))
        out = json.loads(self.succeed("predict", "--run", "run", "pictures", "--json", "--threads", 1))
        for i, picture in enumerate(out["pictures"]):
            row = logits[10 * i:10 * i + 10]
            self.assertEqual(len(picture["top"]), 5)
            for t in picture["top"]:
                self.assertAlmostEqual(t["probability"], math.exp(row[t["class"]]) / sum(map(math.exp, row)), 5)
                self.assertEqual(t["name"], str(t["class"]))

    def test_bad_pictures_are_named_and_the_others_predicted(self):
        self.succeed("train", *self.options[:-6], "--epochs", 1, "--threads", 1, "--out", "run")
        photos = self.folder / "photos"
        (photos / "deeper").mkdir(parents=True)
        whole = rgb_png(24, 16, bytes(range(256)) * 4 + bytes(128))  # of another size: scaled, and the middle taken
        (photos / "a.png").write_bytes(whole)
        (photos / "b.png").write_bytes(whole[:len(whole) // 2])
        (photos / "deeper" / "c.jpg").write_bytes(b"no picture at all")
        (photos / "deeper" / "d.png").write_bytes(rgb_png(8, 8, bytes(192)))
        (photos / "notes.txt").write_text("no picture")
        result = self.run_command("predict", "--run", "run", "photos", "--json")
        self.assertEqual(result.returncode, 1)
        out = json.loads(result.stdout)
        self.assertEqual([p["picture"] for p in out["pictures"]], ["photos/a.png", "photos/deeper/d.png"])
        self.assertEqual([p["picture"] for p in out["failed"]], ["photos/b.png", "photos/deeper/c.jpg"])
        self.assertIn("files of other types left out: 1", out["notes"][0])
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 2)
        for line, name in zip(lines, ("b.png", "c.jpg")):
            self.assertTrue(line.startswith("pipecast: "))
            self.assertIn(name, line)
        self.refuse(["predict", "--run", "run", "photos/b.png"], "b.png")  # nothing was predicted
        (self.folder / "empty").mkdir()
        self.refuse(["predict", "--run", "run", "empty"], "holds no pictures")


class Audit(CommandTest):
    def test_contract(self):
        for method in ("pipeoptim", "vanilla"):
            audit = json.loads(self.succeed("audit", "--stages", 4, "--method", method, "--minibatches", 8, "--json"))
            self.assertEqual(set(audit), {"method", "stages", "copies", "frames", "passes"})
            self.assertEqual((audit["method"], audit["stages"]), (method, 4))
            self.assertEqual(audit["copies"], [2, 2, 2, 1] if method == "pipeoptim" else [1] * 4)
            self.assertEqual(audit["frames"], [4, 3, 2, 1])
            self.assertEqual(len(audit["passes"]), 4 * 8 * 2)
            for p in audit["passes"]:
                self.assertEqual(set(p), {"stage", "minibatch", "micro", "chunk", "pass", "reads", "version", "ahead", "live"})
                ahead = 3 - p["stage"] if method == "pipeoptim" and p["pass"] == "forward" else 0
                self.assertEqual(p["ahead"], ahead, p)
                self.assertEqual(p["reads"], "predicted" if ahead else "latest")
                if p["pass"] == "backward":
                    self.assertEqual((p["version"], p["live"]), (p["minibatch"], p["minibatch"]))
                else:
                    self.assertEqual(p["live"], max(0, p["minibatch"] - (3 - p["stage"])))

    def test_options_of_a_run(self):
        (self.folder / "config").write_text('method = "vanilla"\nstages = 2\nlr = 0.1\n')  # lr is for other commands
        audit = json.loads(self.succeed("audit", "--config", "config", "--json"))
        self.assertEqual((audit["method"], audit["stages"]), ("vanilla", 2))
        self.assertIn("vanilla", self.succeed("audit", "--config", "config"))

    def test_program_files(self):
        table = self.succeed("audit", "--stages", 3, "--method", "pipedream", "--export", "mine.csv")
        self.assertIn("pipedream: 3 stages, 8 mini-batches\n", table)
        self.assertEqual(self.succeed("audit", "--program", "mine.csv"), table.replace("pipedream:", "mine.csv:"))
        self.assertEqual(json.loads(self.succeed("audit", "--program", "mine.csv", "--json"))["copies"], [3, 2, 1])
        drawing = self.succeed("draw", "--program", "mine.csv")
        self.assertEqual(self.succeed("draw", "--stages", 3, "--method", "pipedream"), drawing)
        self.succeed("draw", "--program", "mine.csv", "--out", "mine.svg")
        self.assertIn("mine.csv, 3 stages", (self.folder / "mine.svg").read_text())
        self.refuse(["audit", "--program", "mine.csv", "--max-copies", 2, "--json"], "copy number 3 of the weights")
        self.refuse(["audit", "--export", "mine.txt"], "ends neither in .csv nor in .json")
        self.refuse(["draw", "--program", "other.csv"], "cannot read 'other.csv'")

        # A fault is drawn where it is: the step after B0 of stage 0 left out.
        lines = (self.folder / "mine.csv").read_text().splitlines()
        lines.remove(next(line for line in lines if line.startswith("0,step,0,")))
        (self.folder / "mine.csv").write_text("\n".join(lines))
        for command in ("audit", "draw"):
            result = self.run_command(command, "--program", "mine.csv")
            self.assertEqual(result.returncode, 2)
            self.assertIn("stage 0  F0 F1 F2 .  .  B0 F3 !\n", result.stdout)
            self.assertIn("the gradient of mini-batch 0 has not been used by a step yet", result.stderr)

    def test_options_of_methods(self):
        self.assertIn("F0.1c2  reads", self.succeed("audit", "--method", "interleaved", "--stages", 2, "--micro-batches", 2, "--chunks", 3))
        self.assertIn("R0 ", self.succeed("draw", "--recompute", "always"))
        self.refuse(["draw", "--recompute", "allways"], "did you mean 'always'?")
        synchronous = self.succeed("draw", "--method", "vanilla", "--stages", 2, "--synchronous-minibatches", 1)
        self.assertIn("stage 0  F0 .  .  B0 F1 F2", synchronous)
        self.assertIn("learning rate x 0.33 to 1.00", self.succeed("audit", "--method", "pipemare", "--rescale-minibatches", 4))


class Simulate(CommandTest):
    PIPELINE = ["--model", "resnet20", "--batch", 25, "--stages", 2, "--threads", 1, "--method", "pipeoptim"]

    def test_uniform(self):
        gpipe = ["simulate", "--uniform", "--stages", 4, "--method", "gpipe", "--micro-batches", 8, "--minibatches", 3, "--batch", 66]
        result = json.loads(self.succeed(*gpipe, "--json", "--passes"))
        self.assertAlmostEqual(result["bubble_share"], 3 / 11)
        self.assertAlmostEqual(result["step_seconds"], 3 * 11)
        self.assertAlmostEqual(result["images_per_second"], 2)
        self.assertEqual([stage["frames"] for stage in result["stage_results"]], [8] * 4)
        self.assertEqual(set(result["stage_results"][0]), {"busy_share", "copies", "frames", "inputs"})  # bytes are not known
        self.assertEqual(len(result["passes"]), 4 * 3 * 8 * 2)
        self.assertIn("2 samples/s; bubble 27.27 %", self.succeed(*gpipe))
        slow = json.loads(self.succeed(*gpipe, "--json", "--message-bytes", 10, "--bytes-per-second", 20, "--latency", 1, "--forward-seconds", 2))
        self.assertGreater(slow["step_seconds"], 4 * 11)

    def test_plan_is_what_a_run_takes(self):
        plan = json.loads(self.succeed("plan", *self.PIPELINE, "--json"))
        self.succeed(*TRAIN, *self.PIPELINE, "--batch", 25, "--out", "run")
        start = json.loads((self.folder / "run" / "metrics.jsonl").read_text().splitlines()[0])
        kinds = ("weight_bytes", "gradient_bytes", "state_bytes", "frame_bytes", "arena_bytes")
        for planned, stage, parts in zip(plan["stage_plans"], start["stages"], plan["partition"], strict=True):
            self.assertEqual((planned["parameters"], planned["copies"], planned["frames"], parts),
                             (stage["parameters"], stage["copies"], stage["frames"], stage["parts"]))
            self.assertEqual(sum(planned[kind] for kind in kinds) / 2**20, stage["memory_mebibytes"])
        self.assertIn("stem", self.succeed("plan", *self.PIPELINE))

        (self.folder / "costs.json").write_text(json.dumps(plan))
        simulated = json.loads(self.succeed("simulate", "--costs", "costs.json", "--json"))
        self.assertEqual((simulated["method"], simulated["stages"], simulated["batch"]), ("pipeoptim", 2, 25))
        self.assertGreater(simulated["step_seconds"], 0)
        for result, planned in zip(simulated["stage_results"], plan["stage_plans"], strict=True):
            self.assertEqual([result[kind] for kind in kinds], [planned[kind] for kind in kinds])
        self.refuse(["simulate", "--costs", "costs.json", "--stages", 3], "costs.json", "--stages")
        piped = subprocess.run([PIPECAST, "simulate", "--costs", "/dev/stdin", "--json"], input=json.dumps(plan), capture_output=True, text=True)
        self.assertEqual(json.loads(piped.stdout)["stages"], 2)

    def test_refusals(self):
        self.refuse(["simulate", "--costs", "missing.json"], "cannot read 'missing.json'")
        self.refuse(["simulate", "--forward-seconds", 2], "--forward-seconds", "--uniform")
        self.refuse(["simulate", "--uniform", "--model", "resnet20"], "--uniform has no model: leave --model out")
        self.refuse(["simulate", "--uniform", "--passes"], "--passes needs --json")
        self.refuse(["plan", "--stages", 40], "11 parts", "40")
        self.refuse(["plan", "--method", "gpip", "--recompute", "somtimes"], "gpipe", "recomputation", mistakes=2)


class Plan(CommandTest):
    def plan(self, *arguments):
        return json.loads(self.succeed("plan", "--image", 16, "--stages", 2, "--threads", 1, "--json", *arguments))

    def test_few_samples(self):
        """Fewer samples than a mini-batch has: a plan for mini-batches of so many."""
        few, three = self.plan("--batch", 8, "--samples", 3), self.plan("--batch", 3)
        self.assertEqual(few["batch"], 3)
        self.assertEqual([stage["frame_bytes"] for stage in few["stage_plans"]], [stage["frame_bytes"] for stage in three["stage_plans"]])
        self.refuse(["plan", "--batch", 8, "--samples", 3, "--micro-batches", 4], "3 samples cannot be cut into 4 micro-batches")

    def test_memory_only(self):
        """What a run takes of memory, without measuring; of a model that this machine may be too small for, too."""
        plan = self.plan("--batch", 4, "--memory-only")
        self.assertEqual(plan["memory_bytes"], self.plan("--batch", 4)["memory_bytes"])
        self.assertNotIn("seconds", json.dumps(plan))
        large = ["plan", "--model", "amoebanet_d_72x512", "--image", 224, "--classes", 1000, "--stages", 8, "--batch", 8, "--memory-only"]
        self.assertRegex(self.succeed(*large), r"7  cell\S+ to classify")
        (self.folder / "costs.json").write_text(json.dumps(plan))
        self.refuse(["simulate", "--costs", "costs.json"], "without --memory-only")
        self.refuse(["plan", "--memory-only", "--partition", "measured"], "--memory-only measures nothing")

    def test_optimizer_of_the_method(self):
        """A method that is defined with an optimizer is planned with it, and with no other."""
        own, nadam, sgd = (self.plan("--batch", 2, "--method", method, *more)["stage_plans"] for method, more in
                           (("nadam-async", []), ("pipedream", ["--optimizer", "nadam"]), ("pipedream", [])))
        state = [[stage["state_bytes"] for stage in plan] for plan in (own, nadam, sgd)]
        self.assertEqual(state[0], state[1])
        self.assertNotEqual(state[0], state[2])
        self.refuse(["plan", "--method", "nadam-async", "--optimizer", "rmsprop"], "nadam-async is defined with the optimizer nadam, not rmsprop")

    def test_partition_of_chunks(self):
        self.refuse(["plan", "--stages", 2, "--method", "interleaved", "--partition", "5,6"], "has 2 numbers, not 4", "of its chunks")


class Bench(CommandTest):
    SMALL = ["--batch", 2, "--threads", 1, "--json"]

    def test_step(self):
        result = json.loads(self.succeed("bench", "step", *self.SMALL, "--seconds", 0.01))
        self.assertEqual((result["benchmark"], result["model"], result["batch"], result["threads"]), ("step", "resnet20", 2, 1))
        self.assertGreater(result["images_per_second"], 0)
        # A forward of ResNet-20 has 81.626 MFLOP an image, 0.885 of them in the first layer, which has no gradient of its input.
        flops_per_image = result["gflops_per_second"] * 1e9 / result["images_per_second"]
        self.assertAlmostEqual(flops_per_image / 1e6, 3 * 81.626 - 0.885, delta=0.01)
        self.assertAlmostEqual(result["share_of_machine"], result["gflops_per_second"] / result["machine_gflops_per_second"])
        self.assertGreater(result["peak_resident_mebibytes"], result["resident_mebibytes_before"])
        self.assertLess(result["peak_resident_mebibytes"], 192)  # without what the machine's own rates take
        self.assertGreater(result["start_seconds"], 0)
        self.assertIn("first step done", self.succeed("bench", "step", *self.SMALL[:-1], "--seconds", 0.01))

    def test_layers(self):
        result = json.loads(self.succeed("bench", "layers", *self.SMALL))
        self.assertEqual(len(result["layers"]), 45)  # the loss is one of them
        self.assertEqual({kind["kind"]: kind["layers"] for kind in result["kinds"]},
                         {"batch_norm": 21, "convolution": 21, "global_average_pool": 1, "linear": 1, "softmax_cross_entropy": 1})
        for layer in result["layers"]:
            self.assertEqual(bool(layer["implementation"]), layer["kind"] == "convolution")
            self.assertEqual(layer["reference"], "ref" in layer["implementation"])
        of_kind = sum(layer["forward"]["seconds"] for layer in result["layers"] if layer["kind"] == "convolution")
        self.assertAlmostEqual(result["kinds"][1]["forward"]["seconds"], of_kind)
        table = self.succeed("bench", "layers", *self.SMALL[:-1], "--sort", "time")
        self.assertIn("layer3.2.conv2", table)
        self.assertIn("between the layers", table)

    def test_optimizer(self):
        result = json.loads(self.succeed("bench", "optimizer", "--optimizer", "adam", "--parameters", 100000, "--threads", 1, "--json"))
        self.assertEqual([row["lookahead"] for row in result["lookaheads"]], ["paper", "released", "exact", "decayed"])
        row = result["lookaheads"][0]
        # Two states: weights, gradient and states read, weights and states written, the gradient cleared; a prediction written.
        self.assertEqual((row["step"]["bytes"], row["step_and_predict"]["bytes"], row["predict"]["bytes"]), (3.2e6, 3.6e6, 1.6e6))
        self.assertAlmostEqual(row["extra_share"], row["step_and_predict"]["seconds"] / row["step"]["seconds"] - 1)
        self.assertIn("decayed", self.succeed("bench", "optimizer", "--optimizer", "muon", "--parameters", 100000, "--threads", 1))

    def test_pipeline(self):
        small = ["bench", "pipeline", "--batch", 4, "--minibatches", 3, "--rounds", 2, "--partition", "6,5", "--micro-batches", 2]
        result = json.loads(self.succeed(*small, "--methods", "vanilla,pipeoptim:4,gpipe", "--json"))
        vanilla, pipeoptim, gpipe = result["methods"]
        self.assertEqual([(row["method"], row["micro_batches"]) for row in result["methods"]],
                         [("vanilla", 1), ("pipeoptim", 4), ("gpipe", 2)])
        self.assertAlmostEqual(gpipe["bubble_share"], 1 / 3)  # (D - 1) / (M + D - 1), in every mini-batch
        self.assertAlmostEqual(vanilla["bubble_share"], 1 / 4)  # the same once, from fill to drain
        self.assertEqual(vanilla["time_of_vanilla"], {"median": 1, "tenth": 1, "ninetieth": 1})
        for row in result["methods"]:
            self.assertEqual(row["partition"], [6, 5])
            self.assertEqual(len(row["busy_share"]), 2)
            self.assertGreater(row["permitted_speed_up"], 1)
            self.assertAlmostEqual(row["efficiency"], row["speed_up"]["median"] / 2)
        self.assertIn("partition permits", self.succeed(*small, "--methods", "vanilla"))

    def test_refusals(self):
        self.refuse(["bench"], "which bench command?", "layers")
        self.refuse(["bench", "stp"], "unknown bench command 'stp'", "did you mean 'step'?")
        self.refuse(["bench", "step", "--stages", 2], "--stages", "pipecast bench step --help")
        self.refuse(["bench", "step", "--batch", 2, "--seconds", 0], "--seconds")
        self.refuse(["bench", "layers", "--sort", "tim"], "did you mean 'time'?")
        self.refuse(["bench", "optimizer", "--optimizer", "sdg"], "did you mean 'sgd'?")
        self.refuse(["bench", "optimizer", "--ahead", 100], "--ahead: '100'", "from 1 to 64")
        self.refuse(["bench", "pipeline", "--methods", "gpip,vanilla:0,vanilla:x"], "gpipe", "'vanilla:0'", "'vanilla:x'", mistakes=3)
        self.refuse(["bench", "pipeline", "--partition", "6,6"], "6,6", "11")
        for benchmark in ("step", "layers", "optimizer", "pipeline"):
            own = self.succeed("bench", benchmark, "--help")
            self.assertIn("Usage: pipecast bench " + benchmark, own)
            self.assertIn("pipecast bench " + benchmark, own.split("Examples:")[1])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
