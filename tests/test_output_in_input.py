"""A job's output inside its input: what was written is never read as input, and never destroyed for nothing."""

from __future__ import annotations

import pytest

from pipeline.main import main
from tests import helpers

LAYOUTS = {  # input, output
    "records in a folder": ("records", "{0}/", "{0}/features"),
    "records and output in one folder": ("records", "{0}", "{0}"),
    "records by a glob": ("records", "{0}/**", "{0}/out/features"),
    "photos in a folder": ("photos", "{0}", "{0}/features"),
    "photos and output in one folder": ("photos", "{0}/", "{0}"),
    "photos by a glob": ("photos", "{0}/**", "{0}/features"),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """A job whose output lies within its input, of three images in two shards: (flags, output, kind of input)."""
    kind, pattern, output = LAYOUTS[request.param]
    folder = tmp_path / "a"
    if kind == "records":
        helpers.write_shards(folder, (2, 1))
    else:
        folder.mkdir()
        for seed in range(3):
            (folder / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    flags = [f"--input={pattern.format(folder)}", "--images_per_shard=2"]
    return flags, folder.parent / output.format(folder), kind


def test_a_second_run_finds_the_same_input_and_nothing_to_do(layout, capsys):
    flags, output, _ = layout
    helpers.job(*flags, output=output)
    before = helpers.contents(output)
    assert len(helpers.read_all(output)) == 3
    capsys.readouterr()
    helpers.job(*flags, output=output)
    text = capsys.readouterr().err
    assert "nothing to do" in text
    assert "of an output of this job" in text
    assert helpers.contents(output) == before


def test_overwriting_makes_the_same_again(layout):
    flags, output, _ = layout
    helpers.job(*flags, output=output)
    before = helpers.contents(output)
    helpers.job(*flags, "--overwrite", output=output)
    assert helpers.contents(output) == before


def test_after_a_stop_in_the_middle_the_rest_is_done(layout):
    flags, output, _ = layout
    helpers.job(*flags, output=output)
    whole = helpers.contents(output)
    label = "00001-of-00002"
    for name in (f"features-{label}.tfrecord", f"receipts/{label}.json", "manifest.json"):
        (output / name).unlink()
    left = output / ".tmp" / f"{label}-{'0' * 32}.tfrecord"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(whole[f"features-{label}.tfrecord"][:100])
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == whole


def test_other_files_beside_an_output_are_input_as_ever(layout):
    flags, output, kind = layout
    helpers.job(*flags, output=output)
    if kind == "records":
        helpers.write_tfrecord(output / "features-extra.tfrecord", [helpers.image_example(7)])
    else:
        (output / "features-extra.jpg").write_bytes(helpers.encoded(7))
    helpers.job(*flags, "--overwrite", output=output)
    assert helpers.manifest(output)["features"] == 4


@pytest.fixture
def finished(tmp_path):
    """A finished job over photographs: (flags, output)."""
    (tmp_path / "in").mkdir()
    for seed in range(3):
        (tmp_path / "in" / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    (tmp_path / "in" / "3.jpg").write_bytes(b"no picture")
    flags = [f"--input={tmp_path / 'in'}", "--images_per_shard=2"]
    helpers.job(*flags, output=tmp_path / "out")
    return flags, tmp_path / "out"


@pytest.mark.parametrize(
    "pattern", ["features-00000-of-00002.tfrecord", "features-*.tfrecord", "", "*", "**"]
)
def test_features_are_refused_as_input(finished, tmp_path, capsys, pattern):
    _, output = finished
    helpers.job(f"--input={output}/{pattern}", output=tmp_path / "other", expect=2)
    text = capsys.readouterr().err
    assert "holds features that this job wrote" in text or "of an output of this job" in text


def test_the_list_of_images_and_the_ledger_may_be_input(finished, tmp_path):
    _, output = finished
    helpers.job(f"--input={output}/inputs.txt", output=tmp_path / "again")
    assert [record["key"] for record in helpers.read_all(tmp_path / "again")] == [
        record["key"] for record in helpers.read_all(output)
    ]
    (ledger,) = output.glob("failures-*")
    flags = [f"--input={ledger}", "--uri_column=key", "--max_failure_rate=1"]
    helpers.job(*flags, output=tmp_path / "failed", expect=3)
    assert helpers.manifest(tmp_path / "failed")["failures_by_code"] == {"not_image": 1}


def nothing(flags, output):
    return [f"--input={output.parent}/gone/*.jpg"]


def bad_list(flags, output):
    path = output.parent / "list.csv"
    path.write_text("address\nx\n")
    return [f"--input={path}"]


def no_model(flags, output):
    return [*flags, f"--model={output.parent}/none.npz"]


def bad_model(flags, output):
    path = output.parent / "model.npz"
    path.write_bytes(b"no weights")
    return [*flags, f"--model={path}"]


def no_records(flags, output):
    path = output.parent / "in.tfrecord"
    path.write_bytes(b"text, not records" * 10)
    return [f"--input={path}"]


def own_features(flags, output):
    return [f"--input={output}"]


def what_would_go(flags, output):
    (ledger,) = output.glob("failures-*")
    return [f"--input={ledger}", "--uri_column=key"]


@pytest.mark.parametrize(
    "wrong", [nothing, bad_list, no_model, bad_model, no_records, own_features, what_would_go]
)
def test_overwriting_that_cannot_start_leaves_the_old_output_as_it_was(finished, wrong, capsys):
    flags, output = finished
    before = helpers.contents(output)
    assert main([*helpers.TINY, f"--output={output}", *wrong(flags, output), "--overwrite"]) == 2
    assert "error: " in capsys.readouterr().err
    assert helpers.contents(output) == before


def test_overwriting_a_folder_that_takes_no_files_leaves_it_as_it_was(finished, capsys):
    flags, output = finished
    before = helpers.contents(output)
    (output / ".tmp").write_text("in the way of every attempt")
    helpers.job(*flags, "--overwrite", output=output, expect=2)
    assert "cannot be written to" in capsys.readouterr().err
    (output / ".tmp").unlink()
    assert helpers.contents(output) == before
