"""bit.digests: the strings that receipts of earlier versions hold."""

import hashlib

import numpy as np
import pytest

from bit import digests

FILES = {
    "saved_model.pb": b"graph",
    "fingerprint.pb": b"print",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"data",
    "assets/labels.txt": b"words",
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_digests_never_change(folder):
    assert (
        digests.of_folder(str(folder)) == "54772a0f276ce9646f1b8c109fe1cb0eef5aa103f52e2f8a86d8a858b6d03474"
    )
    assert (
        digests.of_saved_model(str(folder))
        == "8719368ab2336b29d1aeb5ac44c4cddec788f4b57e7d7d25a0828c21b14f6f64"
    )
    for name, content in FILES.items():
        assert digests.of_file(str(folder / name)) == hashlib.sha256(content).hexdigest()


def test_only_the_graph_and_the_variables_identify_what_a_saved_model_computes(folder):
    path = str(folder)
    whole, computing = digests.of_folder(path), digests.of_saved_model(path)
    (folder / "assets" / "labels.txt").write_bytes(b"other words")
    assert digests.of_folder(path) != whole
    assert digests.of_saved_model(path) == computing
    (folder / "variables" / "variables.index").write_bytes(b"other index")
    assert digests.of_saved_model(path) != computing


ARRAYS = {
    "block1/kernel": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
    "group_norm/gamma": np.ones(4, np.float32),
    "head/conv2d/bias": np.zeros(5, np.float32),
}


def of_arrays(arrays, head=True):
    digest = digests.OfArrays()
    for name, value in arrays.items():
        digest.add(name, value)
    return digest.hexdigest(head)


def test_the_digest_of_arrays_never_changes():
    assert of_arrays(ARRAYS) == "4f495ef9f95505114d60f7173ec6a0f753640b9d69aa8c5c159147c05cab12db"
    assert of_arrays(ARRAYS, head=False) == "369b78c4cb2da004ce9c82663c23fb081ff905a0aae23013f9fd66fb433de997"


def test_arrays_count_by_their_numbers_however_they_are_stored():
    stored = {
        "head/conv2d/bias": np.zeros(5, ">f4"),
        "group_norm/gamma": np.ones(8, np.float32)[::2],
        "block1/kernel": np.asfortranarray(ARRAYS["block1/kernel"]),
    }
    assert of_arrays(stored) == of_arrays(ARRAYS)
    del stored["head/conv2d/bias"]
    assert of_arrays(stored) == of_arrays(ARRAYS, head=False)


@pytest.mark.parametrize("name", ARRAYS)
def test_one_bit_one_name_and_one_shape_make_another_digest(name):
    value = ARRAYS[name]
    bit = value.copy()
    bit.view(np.uint32).reshape(-1)[-1] ^= 1
    for other in ({name: bit}, {name: value.reshape(-1, 1)}, {name: value[..., :-1]}, {name + "x": value}):
        rest = {n: v for n, v in ARRAYS.items() if n != name}
        assert of_arrays(rest | other) != of_arrays(ARRAYS)
