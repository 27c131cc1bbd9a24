"""Writes pictures.safetensors: pictures of the fuzz corpus as Pillow reads them, red, green and blue; those with EXIF data upright as well.

Run with Python that has Pillow, numpy and safetensors:  python tests/golden/make_pictures.py
"""
import io
import pathlib

import numpy
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
CORPUS = HERE / ".." / "fuzz" / "corpus" / "picture"


def pixels(image):
    return numpy.ascontiguousarray(numpy.asarray(image.convert("RGB")))


def with_orientation(file, orientation):
    """The file with another orientation in the EXIF data; a PNG's checksum is no longer right."""
    at = file.index(b"\x01\x12\x00\x03\x00\x00\x00\x01") + 8
    return file[:at] + bytes([0, orientation]) + file[at + 2 :]


tensors = {}
for name in ("rgb.png", "palette.png", "grey.png", "bits.png", "exif.png", "baseline.jpg", "full.jpg", "progressive.jpg", "grey.jpg",
             "cmyk.jpg", "cmyk_no_adobe.jpg", "cmyk_transform_1.jpg", "cmyk_transform_2.jpg", "edge_422.jpg", "exif.jpg"):
    tensors[name] = pixels(Image.open(CORPUS / name))
tensors["exif.png upright"] = pixels(ImageOps.exif_transpose(Image.open(CORPUS / "exif.png")))
for orientation in range(1, 9):
    image = Image.open(io.BytesIO(with_orientation((CORPUS / "exif.jpg").read_bytes(), orientation)))
    tensors[f"exif.jpg {orientation}"] = pixels(ImageOps.exif_transpose(image))
save_file(tensors, HERE / "pictures.safetensors")
