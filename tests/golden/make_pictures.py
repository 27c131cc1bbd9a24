"""Writes pictures.safetensors: pictures of the fuzz corpus as Pillow reads them, red, green and blue; those with EXIF data upright as well.
scaled.safetensors, colours.safetensors and reduced.safetensors: pictures of other sizes and colours.

Run with Python that has Pillow, numpy and safetensors:  python tests/golden/make_pictures.py
"""
import colorsys
import io
import pathlib

import numpy
from PIL import Image, ImageEnhance, ImageOps
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

# Scaling, data/resize.h: rectangles of a picture to other sizes.
photo = Image.open(CORPUS / "slopes.jpg").convert("RGB")
noise = numpy.random.default_rng(3).integers(0, 256, (37, 53, 3), dtype=numpy.uint8)
scaled = {"photo": pixels(photo), "noise": noise}
for name, image in (("photo", photo), ("noise", Image.fromarray(noise))):
    w, h = image.size
    for box in ((0, 0, w, h), (3, 2, w - 5, h - 1), (7, 7, 8, 9), (0, 5, w, 6)):
        for size in ((16, 16), (64, 48), (5, 31), (1, 1), (w, h)):
            left, top, right, bottom = box
            result = image.crop(box).resize(size, Image.Resampling.BILINEAR)
            scaled[f"{name} {top} {left} {bottom - top} {right - left} to {size[1]} {size[0]}"] = pixels(result)
    # torchvision's Resize(20) and CenterCrop(17): the longer side is rounded down, the middle to the even number.
    short, long = sorted((w, h))
    size = (20, 20 * h // w) if w < h else (20 * w // h, 20)
    result = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 17) / 2), round((size[1] - 17) / 2)
    scaled[f"{name} middle"] = pixels(result.crop((left, top, left + 17, top + 17)))
# Grey pictures.
grey = Image.fromarray(noise).convert("L")
scaled["grey"] = numpy.asarray(grey)
scaled["grey 0 0 37 53 to 12 20"] = numpy.asarray(grey.resize((20, 12), Image.Resampling.BILINEAR))
save_file({name: numpy.ascontiguousarray(values) for name, values in scaled.items()}, HERE / "scaled.safetensors")

# Colours, data/augmentation.h: torchvision's adjust_brightness, adjust_contrast and adjust_saturation of a Pillow picture are these; the hue
# is turned in floating point, as its adjust_hue of a tensor.
colours = {"noise": noise, "grey": numpy.asarray(grey)}
for factor in (0.0, 0.6, 1.0, 1.4):
    for name, kind in (("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)):
        colours[f"noise {name} {factor}"] = pixels(kind(Image.fromarray(noise)).enhance(factor))
        if name != "saturation":
            colours[f"grey {name} {factor}"] = numpy.asarray(kind(grey).enhance(factor))


def turned(colour, turns):
    h, s, v = colorsys.rgb_to_hsv(*(colour / 255.0))
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb((h + turns) % 1, s, v)]


for turns in (-0.5, -0.1, 0.0, 0.3):
    colours[f"noise hue {turns}"] = numpy.array([[turned(c, turns) for c in row] for row in noise], dtype=numpy.uint8)
save_file({name: numpy.ascontiguousarray(values) for name, values in colours.items()}, HERE / "colours.safetensors")

# JPEG at a part of its size: libjpeg's own, which Pillow calls draft.
reduced = {}
for name in ("slopes.jpg", "slopes_progressive.jpg", "baseline.jpg", "cmyk.jpg"):
    whole = Image.open(CORPUS / name)
    for divisor in (1, 2, 4, 8):
        image = Image.open(CORPUS / name)
        image.draft(None, (max(1, whole.width // divisor), max(1, whole.height // divisor)))
        if image.size == (-(-whole.width // divisor), -(-whole.height // divisor)):
            reduced[f"{name} {divisor}"] = pixels(image)
save_file(reduced, HERE / "reduced.safetensors")
