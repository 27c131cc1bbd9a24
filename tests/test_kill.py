"""Runs that are killed, stopped and resumed end as if nothing had happened.
Usage: python3 test_kill.py path/to/pipecast [--kills N] [--seed S] [unittest arguments]; 12 kills unless said otherwise."""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import unittest

from test_command import PIPECAST, CommandTest

parser = argparse.ArgumentParser()
parser.add_argument("pipecast")
parser.add_argument("--kills", type=int, default=12)
parser.add_argument("--seed", type=int, default=1)
ARGUMENTS, REST = parser.parse_known_args()

# 10 mini-batches an epoch, the last one short.
TRAIN = ["train", "--data", "generated:29", "--batch", "3", "--epochs", "4", "--threads", "2", "--stages", "2", "--lr", ".01",
         "--augment", "crop,flip", "--log-every", "4", "--checkpoint-every", "3"]
KINDS = [[],
         ["--lookahead", "released", "--eval-every", "3", "--checkpoint-keep", "1"],
         ["--method", "pipemare", "--rescale-epochs", "2", "--synchronous-epochs", ".5", "--optimizer", "adamw", "--stages", "3",
          "--threads", "3"],
         ["--method", "gpipe", "--micro-batches", "2", "--optimizer", "muon", "--clip-norm", "1", "--executor", "sequential"]]
TIMES = {"seconds", "images_per_second", "busy"}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


class Runs(CommandTest):
    def files(self, run):
        """What must be the same of two runs: the metrics but for times, and the other files."""
        folder = self.folder / run
        same = {name: (folder / name).read_bytes() for name in ("config", "weights.safetensors")}
        self.assertTrue((folder / "report.html").exists())
        lines = self.metrics(run)
        self.assertEqual(lines[-1]["event"], "done")
        return without_times(lines), same

    def start(self, *arguments, ignoring=()):
        def set_signals():  # whatever this test was started with: nohup, say, ignores SIGHUP
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)

        process = subprocess.Popen([PIPECAST, *map(str, arguments)], cwd=self.folder, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=set_signals)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()

    def wait_for(self, run, event, count=1):
        """Until the run has written so many lines of an event."""
        path, end = self.folder / run / "metrics.jsonl", time.monotonic() + 300
        while not path.exists() or path.read_text().count(f'"event":"{event}"') < count:
            self.assertLess(time.monotonic(), end)
            time.sleep(.002)

    def stopped(self, run, *arguments, by=signal.SIGTERM, after=1):
        """Begins a run and stops it by a signal once it has logged `after` steps; on a busy machine it may be over before."""
        for attempt in range(5):
            shutil.rmtree(self.folder / run, ignore_errors=True)
            process = self.start(*TRAIN, *arguments, "--out", run)
            self.wait_for(run, "step", after)
            process.send_signal(by)
            out, error = process.communicate(timeout=300)
            if process.returncode != 0:
                break
        self.assertEqual(process.returncode, 3, error)
        return out, error


class Killed(Runs):
    def test_killed_at_any_moment(self):
        """SIGKILL at random moments, again and again, in runs of several kinds; what they leave is that of a run left alone."""
        moments = random.Random(ARGUMENTS.seed)
        kills = resumed = ended = 0
        expected, duration = {}, {}
        for kind, options in enumerate(KINDS):
            begin = time.monotonic()
            self.succeed(*TRAIN, *options, "--out", "alone")
            duration[kind] = time.monotonic() - begin
            expected[kind] = self.files("alone")
            shutil.rmtree(self.folder / "alone")
        while kills < ARGUMENTS.kills:
            kind = ended % len(KINDS)
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            command = [*TRAIN, *KINDS[kind], "--out", "run"]
            while True:
                process = self.start(*command)
                try:
                    # Every other time early: near the beginning of a run, or what resuming does first.
                    process.wait(moments.uniform(0, duration[kind] * moments.choice([.1, .8])) if kills < ARGUMENTS.kills else 300)
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
                out, error = process.communicate()
                if process.returncode == 0 or "run 'run' is done" in error:  # it was killed after its last line
                    break
                if process.returncode == 2:
                    # Ended before its first checkpoint: the sentence says what to do.
                    self.assertRegex(error, "has no complete checkpoint: begin it again|holds no run: there is no file")
                    self.assertNotEqual(command[1], "--data", error)
                    command = [*TRAIN, *KINDS[kind], "--out", "run", "--overwrite"]
                    continue
                self.assertEqual(process.returncode, -signal.SIGKILL, error)
                resumed += command[1] == "--resume"
                command = ["train", "--resume", "run"]
            ended += 1
            self.assertEqual(self.files("run"), expected[kind])
            self.assertLessEqual(len(list((self.folder / "run" / "checkpoints").iterdir())), 3)
        print(f"{kills} kills, {resumed} of them of resumed runs, in {ended} runs: all ended with the digest of a run left alone",
              file=sys.stderr)

    def test_comparison_goes_on(self):
        compare = ["compare", *TRAIN[1:], "--methods", "vanilla,gpipe", "--seeds", "1", "--out"]
        self.succeed(*compare, "whole")
        process = self.start(*compare, "parts")
        self.wait_for("parts/gpipe-1", "step", 5)
        process.kill()
        process.wait()
        out = self.succeed(*compare, "parts")
        self.assertRegex(out, "run 1 of 2: vanilla, seed 1: kept, .*\nrun 2 of 2: gpipe, seed 1: goes on after mini-batch [0-9]+\n")
        for run in ("vanilla-1", "gpipe-1"):
            self.assertEqual(self.files("parts/" + run), self.files("whole/" + run))


class Stopped(Runs):
    def test_signals(self):
        self.succeed(*TRAIN, "--out", "alone")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            with self.subTest(signal=number.name):
                for attempt in range(5):  # a signal just before a drain is obeyed there, without a word before
                    out, error = self.stopped("run", by=number, after=2)
                    told = [line for line in out.splitlines() if line.startswith(number.name + ": the pipeline drains after mini-batch ")]
                    if told:
                        break
                self.assertEqual(len(told), 1, out)
                stop = int(told[0].split(" mini-batch ")[1].split(",")[0])
                self.assertTrue(stop % 3 == 0 or stop % 10 == 0)
                self.assertEqual(error, f"pipecast: {number.name}: the run is saved after mini-batch {stop} of 40; "
                                        "'pipecast train --resume run' goes on with it\n")
                self.assertNotIn("done", [line["event"] for line in self.metrics("run")])
                self.assertIn(f"goes on after mini-batch {stop} of 40\n", self.succeed("train", "--resume", "run"))
                self.assertEqual(self.files("run"), self.files("alone"))

    def test_second_signal_ends_at_once(self):
        process = self.start(*TRAIN, "--checkpoint-every", 0, "--epochs", 100, "--eval-every", 100, "--out", "run")
        self.wait_for("run", "step")
        process.terminate()
        while not process.stdout.readline().startswith("SIGTERM: the pipeline drains after mini-batch 1000, "):
            pass
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(10), -signal.SIGINT)

    def test_ignored_signals_stay_ignored(self):
        """As in the background jobs of a script, which its Ctrl-C must not stop."""
        process = self.start(*TRAIN, "--out", "run", ignoring=(signal.SIGINT, signal.SIGUSR1))
        self.wait_for("run", "step")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.communicate(timeout=300)[1], "")
        self.assertEqual(process.returncode, 0)
        self.stopped("run", by=signal.SIGTERM)

    def test_two_processes_in_one_folder(self):
        process = self.start(*TRAIN, "--epochs", 100, "--out", "run")
        self.wait_for("run", "epoch")
        for command in (["train", "--resume", "run"], [*TRAIN, "--out", "run", "--overwrite"]):
            result = self.run_command(*command)
            self.assertEqual(result.returncode, 2)
            self.assertIn("another process is training into the folder", result.stderr)
        self.assertIsNone(process.poll())


class Altered(Runs):
    def resumed(self, *options):
        """A copy of the stopped run, resumed with options; what it printed and its metrics."""
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        shutil.copytree(self.folder / "run", self.folder / "copy")
        return self.succeed("train", "--resume", "copy", *options), self.metrics("copy")

    def test_what_may_change(self):
        self.succeed(*TRAIN, "--method", "gpipe", "--out", "alone")
        digest = self.metrics("alone")[-1]["weights_digest"]
        self.stopped("run", "--method", "gpipe")
        same = "leave the result bit for bit what it would be without an interruption"
        for options in (["--stages", 1, "--threads", 1], ["--stages", 3, "--threads", 3, "--executor", "sequential"],
                        ["--partition", "1,10"], ["--recompute", "always", "--checkpoint-keep", 5],
                        ["--checkpoint-every", 7, "--eval-every", 3], ["--cut-layers=true"]):
            with self.subTest(options=options):
                out, metrics = self.resumed(*options)
                self.assertIn(same, out)
                self.assertEqual(metrics[-1]["weights_digest"], digest)
                line = [line for line in metrics if line["event"] == "resume"][0]
                self.assertLessEqual({str(option)[2:].split("=")[0] for option in options[::2]}, set(line["changed"]))
        for options, why in ((["--threads", 4], "each stage computes with 2 threads, not 1"),
                             (["--epochs", 5], "the learning rates of schedule cosine depend on --epochs")):
            out, metrics = self.resumed(*options)
            self.assertIn("not bit for bit that of a run without an interruption: " + why, out)
        self.assertEqual(metrics[-1]["updates"], 50)
        # The configuration is that with which it went on.
        self.assertIn("epochs = 5\n", (self.folder / "copy" / "config").read_text())

    def test_asynchronous_methods_depend_on_the_partition(self):
        self.stopped("run")
        for options, why in ((["--stages", 3, "--threads", 3], "depends on the partition"),
                             (["--partition", "1,10"], "depends on the partition"),
                             (["--checkpoint-every", 0], "drains at other mini-batches")):
            out, metrics = self.resumed(*options)
            self.assertIn("not bit for bit", out)
            self.assertIn(why, out)
            self.assertEqual(metrics[-1]["updates"], 40)
        # In other stages their number in the metrics changes; the report knows.
        self.resumed("--stages", 4, "--threads", 4)
        self.assertIn("stage 3", (self.folder / "copy" / "report.html").read_text())

    def test_a_run_that_is_done_is_trained_further(self):
        constant = ["--lr-schedule", "constant"]
        self.succeed(*TRAIN, *constant, "--epochs", 5, "--out", "five")
        self.succeed(*TRAIN, *constant, "--out", "run")
        self.refuse(["train", "--resume", "run"], "run 'run' is done, with a test accuracy of ", "give --epochs above 4")
        self.refuse(["train", "--resume", "run", "--epochs", 3], "run 'run' is done")
        out, metrics = self.resumed("--epochs", 5)
        self.assertIn("leave the result bit for bit", out)
        five = self.metrics("five")
        self.assertEqual(without_times([line for line in metrics if line["event"] != "resume"]), without_times(five))

    def test_damage(self):
        out, error = self.stopped("run", after=3)
        checkpoints = sorted((self.folder / "run" / "checkpoints").iterdir())
        newest = checkpoints[-1] / "stage-1.safetensors"
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        result = self.run_command("train", "--resume", "run")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(str(newest.name) + "' is damaged", result.stderr)
        self.assertIn("goes on from the checkpoint before it", result.stderr)
        # What is left of a run that was killed as it began is as good as an empty folder.
        (self.folder / "alone").mkdir()
        (self.folder / "alone" / "metrics.jsonl").touch()
        (self.folder / "alone" / "config.tmp").write_text("model = ")
        self.succeed(*TRAIN, "--out", "alone")
        self.assertEqual(self.files("run"), self.files("alone"))

        self.stopped("run")
        for checkpoint in (self.folder / "run" / "checkpoints").iterdir():
            (checkpoint / "stage-0.safetensors").unlink()
        before = {path: path.read_bytes() for path in (self.folder / "run").rglob("*") if path.is_file()}
        result = self.run_command("train", "--resume", "run")
        self.assertEqual(result.returncode, 2)
        self.assertIn("stage-0.safetensors", result.stderr)
        self.assertEqual({path: path.read_bytes() for path in (self.folder / "run").rglob("*") if path.is_file()}, before)

        shutil.rmtree(self.folder / "run" / "checkpoints")
        self.refuse(["train", "--resume", "run"], "run 'run' has no complete checkpoint",
                    "'pipecast train --config run/config --out run --overwrite'")

    def test_refusals(self):
        self.refuse(["train", "--resume", "nowhere"], "'nowhere' holds no run: there is no file 'nowhere/config'")
        self.refuse(["train", "--resume", ""], "option --resume is empty")
        self.stopped("run", "--augment", "flip")
        self.refuse(["train", "--resume", "run", "--out", "other", "--overwrite"], "--out does not go with --resume",
                    "--overwrite does not go with --resume", mistakes=2)
        self.refuse(["train", "--resume", "run", "--config", "run/config"], "--config does not go with --resume")
        self.refuse(["train", "--resume", "run", "--lr", ".5", "--batch", 4], "option --lr is '0.01' in the run and '0.5' now",
                    "option --batch is '3' in the run and '4' now", mistakes=2)
        self.refuse(["train", "--resume", "run", "--model", "resnet32"], "option --model is 'resnet20' in the run and 'resnet32' now")
        self.refuse(["train", "--resume", "run", "--epochs", 0], "option --epochs")
        self.refuse(["train", "--resume", "run", "--data", "generated:40"], "training pictures: 29 then, 40 now",
                    "digest of the data set: ", "test pictures: 7 then, 10 now", mistakes=3)
        self.refuse(["train", "--resume", "run", "--stages", 40], "11 parts")
        # The options by hand: the file says what was meant, the checkpoint what was.
        config = self.folder / "run" / "config"
        config.write_text(config.read_text().replace("momentum = 0.9", "momentum = 0.8"))
        self.refuse(["train", "--resume", "run"], "option --momentum is '0.9' in the run and '0.8' now")
        config.write_text(config.read_text().replace("momentum = 0.8", "momentum = 0.9"))
        metrics = self.folder / "run" / "metrics.jsonl"
        text = metrics.read_text()
        for edited in (text.splitlines()[0] + "\n", " " + text):
            metrics.write_text(edited)
            self.refuse(["train", "--resume", "run"], "'run/metrics.jsonl' does not begin with the lines that it had")
        metrics.write_text(text)
        self.succeed("train", "--resume", "run")

    def test_full_disk_stops_the_run(self):
        """A checkpoint that cannot be written ends the run in a sentence; those before it stay."""
        process = self.start(*TRAIN, "--epochs", 200, "--out", "run")
        self.wait_for("run", "epoch")
        folder = self.folder / "run" / "checkpoints"
        folder.rename(self.folder / "run" / "kept")
        folder.write_text("no folder")
        out, error = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 1)
        self.assertIn("run/checkpoints", error)
        self.assertEqual(len(error.splitlines()), 1, error)
        folder.unlink()
        (self.folder / "run" / "kept").rename(folder)
        self.assertIn("goes on after mini-batch", self.succeed("train", "--resume", "run", "--epochs", 4))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *REST])
