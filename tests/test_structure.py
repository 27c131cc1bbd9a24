#!/usr/bin/env python3
"""What the sources must keep to, as CONTRIBUTING.md has it: folders include downwards only, the plan of a run needs no device, no file of
pipeline/ but a method's own names a method, no .cc there is over 350 lines and no function over 60.

test_structure.py SOURCE_FOLDER     checks the sources, after a check of itself: trees with a fault of each kind must be refused
"""
import pathlib
import re
import sys
import tempfile

# A file may include what stands before its own folder here, and its own folder. Those in one line do not know each other.
ORDER = [
    ["engine"],
    ["layers", "optim"],
    ["models", "data"],
    ["pipeline/methods", "pipeline"],
    ["pipeline/plan"],
    ["pipeline/run"],
    ["pipeline/measure"],
    ["pipeline/train"],
    ["app"],
]
RANK = {folder: rank for rank, folders in enumerate(ORDER) for folder in folders}
MOST_LINES, MOST_FUNCTION_LINES = 350, 60


def folder_of(path):
    """The longest folder in ORDER that the file lies in; None where it lies elsewhere."""
    found = [folder for folder in RANK if path.startswith(folder + "/")]
    return max(found, key=len) if found else None


def sources(root):
    for top in sorted({folder.split("/")[0] for folder in RANK}):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu"):
                yield path.relative_to(root).as_posix(), path.read_text()


def includes(text):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)


def include_faults(files):
    for path, text in files.items():
        own = folder_of(path)
        for included in includes(text):
            other = folder_of(included)
            if other is None or other == own:
                continue
            if RANK[other] > RANK[own] or (RANK[other] == RANK[own] and not own.startswith("pipeline")):
                yield f"{path} includes {included}: {own}/ comes before {other}/ or beside it, and must not know it"


def reached(files, path, seen):
    for included in includes(files.get(path, "")):
        if included not in seen:
            seen[included] = path
            reached(files, included, seen)
    return seen


def device_faults(files):
    for path in files:
        if path.startswith(("pipeline/plan/", "pipeline/methods/")) or path.count("/") == 1 and path.startswith("pipeline/"):
            seen = reached(files, path, {})
            if "engine/device.h" in seen:
                yield f"{path} reaches engine/device.h, through {seen['engine/device.h']}: what plans a run needs no device"


def method_faults(files):
    table = files.get("pipeline/methods.cc", "")
    names = re.findall(r'^\s*\{"([a-z0-9-]+)",', table, re.MULTILINE)
    for path, text in files.items():
        if not path.startswith("pipeline/") or path.startswith("pipeline/methods"):
            continue
        for name in names:
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
                yield f"{path} names the method {name}: only its own file and the table do"


def length_faults(files):
    for path, text in files.items():
        if not path.startswith("pipeline/") or not path.endswith(".cc"):
            continue
        lines = text.split("\n")
        if len(lines) - 1 > MOST_LINES:
            yield f"{path} has {len(lines) - 1} lines: at most {MOST_LINES}"
        for indent in ("", "  "):
            start = None
            for number, line in enumerate(lines):
                if re.match(indent + r"[A-Za-z~\[].*\{$", line):
                    kind = re.match(indent + r"(class|struct|namespace|enum|public|private)\b", line)
                    start = None if kind else number
                elif line == indent + "}" and start is not None:
                    if number - start + 1 > MOST_FUNCTION_LINES:
                        yield f"{path}:{start + 1}: a function of {number - start + 1} lines: at most {MOST_FUNCTION_LINES}"
                    start = None


def faults(root):
    files = dict(sources(root))
    return [fault for check in (include_faults, device_faults, method_faults, length_faults) for fault in check(files)]


def check_itself():
    """A tree with one fault of each kind; without it the check could fail to look."""
    bad = {
        "engine/device.h": "",
        "engine/up.cc": '#include "layers/layer.h"\n',
        "layers/layer.h": '#include "optim/optimizer.h"\n',
        "optim/optimizer.h": "",
        "models/graph.h": '#include "engine/device.h"\n',
        "pipeline/plan/layout.h": '#include "models/graph.h"\n',
        "pipeline/plan/up.cc": '#include "pipeline/run/stage.h"\n',
        "pipeline/run/stage.h": "// for pipeoptim\n",
        "pipeline/methods.cc": '      {"pipeoptim", "1F1B", pipeoptim_program},\n',
        "pipeline/train/long.cc": "void f() {\n" + "  ;\n" * 60 + "}\n" + "\n" * 300,
    }
    with tempfile.TemporaryDirectory() as folder:
        for path, text in bad.items():
            file = pathlib.Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        found = faults(pathlib.Path(folder))
    expected = [
        "engine/up.cc includes layers/layer.h", "layers/layer.h includes optim/optimizer.h", "pipeline/plan/layout.h reaches engine/device.h",
        "pipeline/plan/up.cc includes pipeline/run/stage.h", "pipeline/run/stage.h names the method pipeoptim", "pipeline/train/long.cc has 362 lines",
        "pipeline/train/long.cc:1: a function of 62 lines"
    ]
    for fault in expected:
        if not any(line.startswith(fault) for line in found):
            sys.exit(f"the check does not find this fault: {fault}")
    if len(found) != len(expected):
        sys.exit("the check finds other faults than those that are there:\n" + "\n".join(found))


check_itself()
found = faults(pathlib.Path(sys.argv[1]))
print("\n".join(found))
sys.exit(1 if found else 0)
