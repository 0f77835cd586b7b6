"""bit.digests: the strings that receipts of earlier versions hold."""

import hashlib

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
