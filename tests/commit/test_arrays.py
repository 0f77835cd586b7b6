"""transforms.commit.arrays: features of different weights are not mixed, whoever loaded them and when."""

import dataclasses

import pytest

from tests import helpers
from tests.commit.test_receipts import RECEIPT
from transforms.commit import arrays
from transforms.commit.arrays import OtherWeights
from transforms.commit.layout import Layout

ONE, OTHER = {"arrays": "sha256:1111"}, {"arrays": "sha256:2222"}


def receipt(number, model):
    return dataclasses.replace(RECEIPT, shard=f"{number:05d}-of-00003", model={"route": "npz", **model})


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "out"))


def test_the_first_process_decides_and_others_compare(layout):
    for _ in range(3):
        arrays.agree(layout, ONE)
    with pytest.raises(OtherWeights) as raised:
        arrays.agree(layout, OTHER)
    for part in (
        "model.arrays = 'sha256:2222'",
        "'sha256:1111'",
        layout.folder,
        "--overwrite",
        "bit.download",
    ):
        assert part in str(raised.value)
    arrays.agree(layout, ONE)


def test_a_model_without_a_digest_leaves_no_note(layout, tmp_path):
    arrays.agree(layout, {"route": "saved_model"})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_continues_compares_with_the_receipts(layout):
    arrays.agree(layout, OTHER)  # of a run that was killed before it had committed anything
    arrays.enter(layout, [receipt(0, {}), receipt(1, ONE)])
    arrays.agree(layout, ONE)
    with pytest.raises(OtherWeights):
        arrays.agree(layout, OTHER)


@pytest.mark.parametrize("done", [[], [receipt(0, {})], [receipt(0, {}), receipt(1, {"arrays": ""})]])
def test_a_run_that_was_killed_before_its_first_receipt_binds_no_later_one(layout, done):
    arrays.agree(layout, OTHER)
    with pytest.raises(OtherWeights):
        arrays.agree(layout, ONE)
    arrays.enter(layout, done)
    arrays.agree(layout, ONE)
    with pytest.raises(OtherWeights):  # of the same run
        arrays.agree(layout, OTHER)


def test_receipts_of_earlier_versions_agree_with_any(layout):
    assert arrays.check(layout, [receipt(0, {}), receipt(1, ONE), receipt(2, ONE)]) == "sha256:1111"
    assert arrays.check(layout, [receipt(0, {})]) == ""
    arrays.enter(layout, [receipt(0, {})])
    arrays.agree(layout, ONE)


def test_receipts_of_different_weights_are_refused_by_the_names_of_their_shards(layout):
    with pytest.raises(OtherWeights, match=r"shard 00002-of-00003: .* shard 00001-of-00003 "):
        arrays.check(layout, [receipt(0, {}), receipt(1, ONE), receipt(2, OTHER)])


def test_the_note_goes_with_the_run(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(1)])
    output = tmp_path / "out"
    (output / ".tmp").mkdir(parents=True)
    (output / ".tmp" / "arrays").write_text("sha256:1111")
    helpers.job(f"--input={path}", output=output)
    assert not (output / ".tmp").exists()
