"""The coder of chunks, and values that need no Beam."""

import subprocess
import sys

import numpy as np
import pytest

from tests import helpers
from tests.fakes import SHARD, bad, good
from transforms.coders import ChunkCoder
from transforms.elements import Decoded, EncodedChunk, FeatureChunk, PixelChunk


@pytest.mark.parametrize(
    "chunk",
    [
        EncodedChunk(SHARD, 0, True, (good(0, b"abc"), bad(1))),
        PixelChunk(SHARD, 0, False, (Decoded(b"k", 0, 0, 4, 5, "00"),), np.ones((1, 2, 2, 3), np.float32)),
        FeatureChunk(SHARD, 2, True, (), {"embedding": np.ones((2, 3), np.float32)}, {"route": "npz"}),
    ],
)
def test_the_coder_moves_a_chunk_whole_and_measures_it_without_pickling(chunk):
    coder = ChunkCoder()
    back = coder.decode(coder.encode(chunk))
    assert type(back) is type(chunk)
    assert (back.shard, back.position, back.is_last, back.items) == (
        chunk.shard,
        chunk.position,
        chunk.is_last,
        chunk.items,
    )
    assert len(back) == len(chunk)
    assert coder.estimate_size(chunk) == chunk.nbytes + 256 * len(chunk.items)


def test_values_formats_and_decoding_need_neither_beam_nor_tensorflow():
    program = """
import importlib, pkgutil, sys
import transforms.counters, transforms.elements, transforms.errors
import transforms.imaging, transforms.model, transforms.records
for package in (transforms.imaging, transforms.model, transforms.records):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("._native"):  # a library for ctypes, not a Python module
            importlib.import_module(module.name)
assert "transforms.imaging.preprocess" in sys.modules and "transforms.records.tfrecord" in sys.modules
heavy = {"apache_beam", "tensorflow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
