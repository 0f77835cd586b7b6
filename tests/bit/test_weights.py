"""bit.weights: official names, checkpoints, seeded weights, standardization."""

import ast
import hashlib
import io

import numpy as np
import pytest

from bit import checkpoint
from bit.checkpoint import open_checkpoint
from bit.models import ARCHITECTURES, UnusableModel
from bit.weights import STANDARDIZED, Untrained, folded, shapes, standardize
from tests.golden import weights as golden

TINY = ARCHITECTURES["tiny"]


def tiny_arrays(classes=10):
    weights = Untrained(TINY, classes)
    return {f"resnet/{name}": weights.array(name) for name in shapes(TINY, classes)}


def write(path, arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("architecture", ["r50x1", "r101x3", "r152x4"])
@pytest.mark.parametrize("classes", [0, 1000])
def test_names_and_shapes_are_the_official_ones(architecture, classes):
    ours = shapes(ARCHITECTURES[architecture], classes)
    assert {f"resnet/{name}": shape for name, shape in ours.items()} == golden.shapes(
        architecture, classes or None
    )


def test_a_checkpoint_gives_its_arrays_back(tmp_path):
    arrays = tiny_arrays()
    checkpoint = open_checkpoint(write(tmp_path / "mine.npz", arrays))
    assert (checkpoint.architecture, checkpoint.classes) == (TINY, 10)
    for name, value in arrays.items():
        np.testing.assert_array_equal(checkpoint.array(name.removeprefix("resnet/")), value)


def test_a_compressed_checkpoint_gives_the_same(tmp_path):
    arrays = tiny_arrays()
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    plain = dict(folded(open_checkpoint(write(tmp_path / "plain.npz", arrays)), head=True))
    for name, value in folded(open_checkpoint(str(tmp_path / "small.npz")), head=True):
        np.testing.assert_array_equal(value, plain[name])


def test_the_head_is_read_only_when_asked_for(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "mine.npz", tiny_arrays()))
    assert dict(folded(checkpoint, head=False)).keys() == shapes(TINY).keys()
    assert dict(folded(checkpoint, head=True)).keys() == shapes(TINY, 10).keys()


def test_one_error_names_every_wrong_array(tmp_path):
    arrays = tiny_arrays()
    del arrays["resnet/block2/unit01/a/group_norm/gamma"], arrays["resnet/group_norm/beta"]
    arrays["resnet/block9/extra"] = arrays["global_step"] = np.zeros(3, np.float32)
    misshapen = "resnet/block1/unit01/b/standardized_conv2d/kernel"
    arrays[misshapen] = np.zeros((3, 3, 8, 9), np.float32)
    arrays["resnet/block1/unit01/c/group_norm/beta"] = np.zeros(8, np.int64)
    path = write(tmp_path / "mine.npz", arrays)
    with pytest.raises(UnusableModel) as raised:
        open_checkpoint(path)
    first, *rest = str(raised.value).splitlines()
    assert first.startswith(f"{path} does not hold tiny as official checkpoints do")
    assert [line.strip() for line in rest] == [
        f"misshapen: {misshapen} has (3, 3, 8, 9), expected (3, 3, 8, 8)",
        "missing: resnet/block2/unit01/a/group_norm/gamma (32,)",
        "missing: resnet/group_norm/beta (256,)",
        "not floating-point: resnet/block1/unit01/c/group_norm/beta holds int64",
        "unexpected: global_step (3,)",
        "unexpected: resnet/block9/extra (3,)",
    ]


def test_another_member_than_the_name_says_is_refused(tmp_path):
    path = write(tmp_path / "mine.npz", tiny_arrays())
    with pytest.raises(UnusableModel, match="holds tiny, not r50x1"):
        open_checkpoint(path, "r50x1")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>Not Found</html>", "is not an .npz archive"), (None, "no file")],
)
def test_what_is_no_archive_says_so(tmp_path, content, message):
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableModel, match=message):
        open_checkpoint(str(path))


def test_another_familys_archive_says_so(tmp_path):
    path = write(tmp_path / "mine.npz", {"embedding/kernel": np.zeros(3, np.float32)})
    with pytest.raises(UnusableModel, match=r"is not a BiT checkpoint.*it holds embedding/kernel"):
        open_checkpoint(path)


def test_a_damaged_array_says_so(tmp_path):
    path = tmp_path / "mine.npz"
    write(path, tiny_arrays())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnusableModel, match=r"array resnet/\S+ is damaged"):
        dict(folded(open_checkpoint(str(path)), head=True))


def test_standardization_is_that_of_the_definition():
    kernel = np.random.default_rng(0).normal(0.1, 0.02, (3, 3, 64, 5)).astype(np.float32)
    kernel[..., 4] = 0.25  # no variance: the epsilon keeps it finite
    wide = kernel.astype(np.float64)
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    expected = (wide - mean) / np.sqrt(variance + 1e-10)
    np.testing.assert_allclose(standardize(kernel), expected, rtol=0, atol=2e-6)
    assert standardize(kernel).dtype == np.float32


def test_seeded_weights_never_change():
    weights = Untrained(TINY, 10)
    digest = hashlib.sha256()
    for name in shapes(TINY, 10):
        digest.update(weights.array(name).astype("<f4").tobytes())
    assert digest.hexdigest() == "15d627766fbbb82743fe6e667b1f26bb1e4ecbc06d265e5b5111486dd995dcc9"


def test_seeded_weights_are_as_documented():
    weights = Untrained(TINY, 1000)
    kernel = weights.array(f"block4/unit01/b/{STANDARDIZED}")
    assert kernel.dtype == np.float32
    assert -1 <= kernel.min() < -0.99
    assert 0.99 < kernel.max() <= 1
    assert abs(kernel.mean()) < 0.01
    np.testing.assert_array_equal(weights.array("group_norm/gamma"), 1)
    np.testing.assert_array_equal(weights.array("head/conv2d/bias"), 0)
    assert np.abs(weights.array("head/conv2d/kernel")).max() <= 0.01


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize(
    ("value", "is_plain"),
    [
        (np.zeros((7, 7, 3, 192), "<f4"), True),
        (np.zeros(64, "<f2"), True),
        (np.zeros((), ">f8"), True),
        (np.zeros((0, 3), "|u1"), True),
        (np.asfortranarray(np.zeros((3, 4), "<f4")), True),
        (np.zeros(2, [("a", "<f4")]), False),
    ],
)
def test_headers_that_numpy_writes_are_read_without_pythons_parser(value, is_plain, version, monkeypatch):
    file = io.BytesIO()
    np.lib.format.write_array(file, value, version=version)
    data, expected = file.getvalue(), (value.shape, value.flags.fnc, value.dtype)
    for end in range(len(data) - value.nbytes):
        with pytest.raises((ValueError, EOFError)):
            checkpoint._read_header(io.BytesIO(data[:end]))
    if is_plain:
        monkeypatch.setattr(ast, "literal_eval", None)
    file = io.BytesIO(data)
    assert checkpoint._read_header(file) == expected
    assert file.tell() == len(data) - value.nbytes
