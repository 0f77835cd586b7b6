"""Resizing, to the bits of TensorFlow, with and without the native code."""

import importlib.machinery
import shutil
import subprocess

import numpy as np
import pytest

from tests.imaging.pictures import JPEG, decoded, resized
from transforms import native
from transforms.imaging.resize import resize

NATIVE_NAME = f"_native{importlib.machinery.EXTENSION_SUFFIXES[0]}"


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (375, 500),
        (47, 61),
        (1, 1),
        (1, 500),
        (5000, 1),
        (896, 895),
        (900, 20),
        (3, 40000),
        (65535, 20),
        (700, 17000),
    ],
)
@pytest.mark.parametrize("side", [224, 97, 1])
@pytest.mark.parametrize("built", [True, False], ids=["native", "numpy"])
def test_resizing_is_tensorflows_to_the_bit(height, width, side, built, monkeypatch):
    assert native.LIBRARY, "the native code is not built: ./run_tests.sh does it, with a C compiler"
    if not built:
        monkeypatch.setattr(native, "LIBRARY", None)
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    out = np.full((side, side, 3), np.nan, np.float32)

    resize(pixels, out)

    np.testing.assert_array_equal(out, resized(pixels, side))


def test_random_sizes_are_resized_to_tensorflows_bits():
    random = np.random.RandomState(7)
    for _ in range(60):
        height, width, side = [*random.randint(1, 700, 2).tolist(), int(random.randint(1, 300))]
        pixels = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        out = np.empty((side, side, 3), np.float32)
        resize(pixels, out)
        np.testing.assert_array_equal(out, resized(pixels, side), f"{width}x{height} to {side}")


def test_without_the_native_code_a_process_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", None)
    native.warn_missing.cache_clear()
    for _ in range(2):
        decoded(JPEG)
    (record,) = caplog.records
    assert "python setup.py build_ext --inplace" in record.getMessage()


@pytest.mark.parametrize("content", [b"", b"no library", None], ids=["empty", "text", "another library"])
def test_a_library_that_cannot_be_used_is_left_alone(tmp_path, monkeypatch, caplog, content):
    if content is None:
        source = tmp_path / "other.c"
        source.write_text("int other;")
        subprocess.run(["cc", "-shared", "-o", tmp_path / NATIVE_NAME, source], check=True)
    else:
        (tmp_path / NATIVE_NAME).write_bytes(content)
    monkeypatch.setattr(native, "_problem", "")
    assert native.load(tmp_path) is None
    native.warn_missing.cache_clear()
    native.warn_missing()
    assert f"cannot be loaded ({tmp_path / NATIVE_NAME}" in caplog.text


def test_a_library_of_another_version_is_left_alone(tmp_path, monkeypatch):
    shutil.copy(native.LIBRARY._name, tmp_path / NATIVE_NAME)
    monkeypatch.setattr(native, "_problem", "")
    assert native.load(tmp_path) is not None
    monkeypatch.setattr(native, "_VERSION", -1)
    assert native.load(tmp_path) is None
    assert "another version" in native._problem
