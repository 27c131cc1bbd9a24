"""Writes engine.safetensors, a small file by the format's own library, for the reader's test.

Run with Python that has numpy and safetensors:  python tests/golden/make_engine.py
"""
import pathlib

import numpy
from safetensors.numpy import save_file

tensors = {
    "weight": (numpy.arange(6, dtype=numpy.float32) / 4 - 0.5).reshape(2, 3),
    "counter": numpy.array(2**40 + 7, dtype=numpy.int64),
    "flags": numpy.array([True, False, True]),
    "half": numpy.array([1.5, -2.0], dtype=numpy.float16),
    "empty": numpy.zeros((0, 4), dtype=numpy.float32),
    "größe \"x\"": numpy.array([255, 0], dtype=numpy.uint8),
}
save_file(tensors, pathlib.Path(__file__).parent / "engine.safetensors", metadata={"format": "pt", "made by": "make_engine.py"})
