"""Writes corpus/TARGET/: a few small files for every fuzz target, from which its runs start. Beside them stand the inputs that once failed,
named found_*.

Run from the repository's root, with Pillow installed:  python tests/fuzz/make_corpus.py
"""

import io
import json
import pathlib
import struct

from PIL import Image

HERE = pathlib.Path(__file__).parent / "corpus"


def write(target, name, content):
    (HERE / target).mkdir(parents=True, exist_ok=True)
    (HERE / target / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


write("safetensors", "two", safetensors({"weight": ("F32", [2, 2], bytes(16)), "steps": ("I64", [], bytes(8))}, {"format": "pt"}))
write("safetensors", "empty", safetensors({"nothing": ("F32", [0, 3], b"")}))
write("safetensors", "none", safetensors({}))
types = {"F4": 3, "F6_E2M3": 3, "F8_E4M3": 3, "U16": 2, "F16": 2, "BF16": 2, "C64": 8, "F64": 8, "U64": 8}
counts = {"F4": 6, "F6_E2M3": 4, "F8_E4M3": 3}
write("safetensors", "types", safetensors({kind: (kind, [counts.get(kind, 1)], bytes(size)) for kind, size in types.items()}))

own = {"model": "resnet20", "classes": "10", "height": "32", "width": "32", "channels": "3"}
first = {"conv1.weight": ("F32", [16, 3, 3, 3], bytes(1728)), "bn1.num_batches_tracked": ("I64", [], bytes(8))}
write("weights", "first_layer", safetensors(first, own))
write("weights", "metadata", safetensors({}, own))
write("weights", "wrapped", safetensors({"module." + name: tensor for name, tensor in first.items()}, {"model": "resnet20"}))
write("weights", "other_tool", safetensors({"n_averaged": ("I64", [1], bytes(8))}, {"model": "resnet20", "classes": '["cat"]'}))

write("cifar10", "two", b"\0" + b"".join(bytes([label]) + bytes(3072) for label in (3, 9)))
write("cifar10", "bad_label", b"\1\x0a" + bytes(3072))
write("cifar100", "two", b"\0" + b"".join(bytes(labels) + bytes(3072) for labels in ((3, 9), (19, 99))))
write("cifar100", "coarse", b"\2" + bytes([19, 99]) + bytes(3072))
write("cifar100", "bad_label", b"\1\x0a\x64" + bytes(3072))

numbers = lambda *values: b"".join(struct.pack("<i", value) for value in values)
texts = {"length": ("I32", [2], numbers(3, 1)), "label": ("I32", [2], numbers(0, 1)), "tokens": ("U16", [4], struct.pack("<4H", 5, 6, 7, 5))}
about = {"sequences": '{"tokens": "length"}', "vocabulary": "8", "class_names": '["no", "yes"]'}
write("columns", "texts", safetensors(texts, about))
write("columns", "lengths", safetensors(texts, about | {"lengths": "[2, 4]", "padding": '{"tokens": -100}'}))
write("columns", "numbers", safetensors({"label": ("I32", [1], numbers(3))}))


def idx(labels, height, width):
    pictures = struct.pack(">IIII", 0x803, len(labels), height, width) + bytes(range(len(labels) * height * width))
    return bytes([8 + len(labels)]) + struct.pack(">II", 0x801, len(labels)) + bytes(labels) + pictures


write("idx", "three", b"\0" + idx((3, 9, 0), 4, 5))
write("idx", "bad_label", b"\1" + idx((3, 10), 2, 2))

colours = Image.new("RGB", (9, 7))
colours.putdata([(x * 20, y * 30, 255 - x * y) for y in range(7) for x in range(9)])
write("picture", "rgb.png", encoded(colours, "PNG"))
write("picture", "palette.png", encoded(colours.quantize(8), "PNG"))
write("picture", "grey.png", encoded(colours.convert("L"), "PNG"))
write("picture", "bits.png", encoded(colours.convert("1"), "PNG"))
write("picture", "alpha.png", encoded(colours.convert("LA"), "PNG"))
write("picture", "deep.png", encoded(colours.convert("I;16"), "PNG"))
write("picture", "baseline.jpg", encoded(colours, "JPEG", quality=50))
write("picture", "full.jpg", encoded(colours, "JPEG", quality=50, subsampling=0))
write("picture", "progressive.jpg", encoded(colours, "JPEG", quality=50, progressive=True))
write("picture", "grey.jpg", encoded(colours.convert("L"), "JPEG", quality=50, restart_marker_blocks=1))
black = Image.new("L", (9, 7))
black.putdata([x * 5 + y * 20 for y in range(7) for x in range(9)])
cmyk = encoded(Image.merge("CMYK", (*colours.split(), black)), "JPEG", quality=90)
adobe = cmyk.index(b"\xff\xee")  # 16 bytes, the last of which names the transform
write("picture", "cmyk.jpg", cmyk)
write("picture", "cmyk_no_adobe.jpg", cmyk[:adobe] + cmyk[adobe + 16 :])
for transform in (1, 2):
    write("picture", f"cmyk_transform_{transform}.jpg", cmyk[: adobe + 15] + bytes([transform]) + cmyk[adobe + 16 :])
exif = Image.Exif()
exif[0x0112] = 6
write("picture", "exif.jpg", encoded(colours, "JPEG", quality=90, exif=exif))
write("picture", "exif.png", encoded(colours, "PNG", exif=exif))
slopes = Image.new("RGB", (35, 26))
slopes.putdata([(x * 7, y * 9, 255 - 4 * (x + y)) for y in range(26) for x in range(35)])
for name, options in (("", {}), ("_progressive", {"progressive": True})):
    write("picture", f"slopes{name}.jpg", encoded(slopes, "JPEG", quality=90, **options))
    write("picture", f"slopes{name}_restarts.jpg", encoded(slopes, "JPEG", quality=90, restart_marker_blocks=1, **options))
edge = Image.new("RGB", (16, 8), "blue")
edge.paste("red", (14, 0, 16, 8))
write("picture", "edge_422.jpg", encoded(edge, "JPEG", quality=90, subsampling="4:2:2"))

def png_rows(depth, kind, interlaced, rows, colours=b""):
    """9 x 7, without a filter on any row."""
    return struct.pack(">IIBBBBB", 9, 7, depth, kind, 0, 0, interlaced) + bytes([len(colours) // 3]) + colours + rows


def unfiltered(row_bytes):
    return b"".join(b"\0" + bytes((7 * y + x) % 256 for x in range(row_bytes)) for y in range(7))


write("png", "rgb", png_rows(8, 2, 0, unfiltered(27)))
write("png", "filters", png_rows(8, 6, 0, b"".join(bytes([y % 5]) + unfiltered(36)[1:37] for y in range(7))))
write("png", "palette", png_rows(4, 3, 0, b"".join(b"\0" + bytes([0x12, 0x30] * 2 + [0x10]) for _ in range(7)), bytes(range(12))))
write("png", "bits", png_rows(1, 0, 0, unfiltered(2)))
write("png", "deep", png_rows(16, 4, 0, unfiltered(36)))
write("png", "interlaced", png_rows(8, 0, 1, bytes(100)))

write("annotations", "two", "val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\n")
write("food101", "two", "apple_pie/1005649\nbaby_back_ribs/1014775\n")
write("food101", "windows", "a/1\r\n\r\nb/2\r\n")
write("annotations", "windows", "a.png\tcat\r\n\r\nb.png\tdog\r\n")

fields = "stage,operation,minibatch,micro,chunk,reads,ahead,age,slot,scale,keep"
rows = ["receive_activation,0,0,0,latest,0,0,0,1,true", "forward,0,0,0,predicted,1,0,0,1,true", "backward,0,0,0,latest,0,0,0,1,true",
        "step,0,0,0,latest,0,0,0,0.5,true", "predict,0,0,0,latest,1,0,0,1,true", "stash,1,0,0,latest,0,0,1,1,true",
        "forward,1,0,0,stash,0,1,1,1,false", "recompute,1,0,0,stash,0,1,1,1,true", "backward_input,1,0,0,stash,0,1,1,1,true",
        "backward_weight,1,0,0,latest,0,0,0,1,true"]
write("program_csv", "one_stage", "\n".join([fields] + ["0," + row for row in rows]) + "\n")
write("program_csv", "two_stages", "# a comment\noperation, stage\nforward,0\nsend_activation,0\nreceive_activation,1\nforward,1\n")
entries = [dict(zip(fields.split(","), [0] + row.split(","))) for row in rows]
write("program_json", "one_stage", json.dumps(entries[:3]))
write("program_json", "typed", '[{"stage": 0, "operation": "forward", "scale": 0.5, "keep": false},\n {"stage": 1, "operation": "step"}]')

write("config", "run", '# a run\nmodel = "resnet20"\nlr = 0.1 # rate\naugment = "crop,flip"\nnesterov = true\nout = "a \\"b\\" \\\\c"\n')

chunk = {name + "_seconds": 0.5 for name in ("forward", "backward", "input_half", "weight_half")}
chunk |= {name + "_bytes": 64 for name in ("activation", "gradient", "frame", "input")}
stage = {name + "_seconds": 0.1 for name in ("step", "step_and_predict", "predict", "stash")}
stage |= {name + "_bytes": 100 for name in ("weight", "state", "arena")} | {"chunks": [chunk]}
for method, micro_batches in (("pipeoptim", 1), ("zero-bubble", 2)):
    plan = {"model": "resnet20", "method": method, "lookahead": "paper", "stages": 2, "chunks": 1, "minibatches": 3,
            "micro_batches": micro_batches, "recompute": "never", "batch": 8, "copy_bytes_per_second": 1e9, "costs": [stage, stage]}
    write("plan", method, json.dumps(plan))

manifest = {"version": 1, "minibatch": 780, "description": "{\"epoch\": 2}",
            "files": [{"name": f"stage-{k}.safetensors", "bytes": 100 * k, "sha256": "0123456789abcdef" * 4} for k in range(2)]}
write("manifest", "two", json.dumps(manifest))
write("manifest", "none", json.dumps(manifest | {"files": []}))

write("partition", "four", b"\x0b\x043,3,3,2")
