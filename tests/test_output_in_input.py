"""A job's output inside its input: what was written is never read as input, and never destroyed for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.main import main
from tests import helpers, stores
from transforms import infer

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


def test_below_a_folder_called_like_ours(tmp_path):
    folder = tmp_path / ".tmp" / "w"
    helpers.write_shards(folder, (2,))
    for _ in range(2):
        helpers.job(f"--input={folder}/", output=folder / "out")
    assert helpers.manifest(folder / "out")["shards"] == 1


def test_after_a_run_that_failed_at_once_the_same_command_goes_on(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.jpg").write_bytes(helpers.encoded(0))
    flags = [f"--input={tmp_path}/p/**"]

    def fail(*_):
        raise RuntimeError("as a device that is lost")

    with monkeypatch.context() as patched:
        patched.setattr(infer, "infer", fail)
        helpers.job(*flags, output=tmp_path / "p" / "features", expect=1)
    helpers.job(*flags, output=tmp_path / "p" / "features")
    assert len(helpers.read_all(tmp_path / "p" / "features")) == 1


FOREIGN = {
    "features-00000-of-00002.tfrecord": ("records", "would write over"),
    "manifest.json": ("photos", "this job did not write"),
    "inputs.txt": ("photos", "this job did not write"),
    "request.json": ("photos", "this job did not write"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("more", [(), ("--overwrite",)], ids=["first", "overwrite"])
def test_files_of_others_with_our_names_are_never_written_over(tmp_path, capsys, name, more):
    kind, said = FOREIGN[name]
    folder = tmp_path / "in"
    if kind == "records":
        helpers.write_tfrecord(folder / name, [helpers.image_example(0)])
        helpers.write_tfrecord(folder / name.replace("00000-", "00001-"), [helpers.image_example(1)])
    else:
        folder.mkdir()
        (folder / "a.jpg").write_bytes(helpers.encoded(0))
        (folder / name).write_text("of somebody else")
    before = helpers.contents(folder)
    helpers.job(f"--input={folder}", *more, output=folder, expect=2)
    assert said in capsys.readouterr().err
    assert helpers.contents(folder) == before


@pytest.mark.parametrize("store", [stores.gcs, stores.s3], ids=["gs", "s3"])
@pytest.mark.xdist_group("stores")
def test_on_a_store(store, capsys):
    with store() as running:
        running.use()
        folder = running.folder()
        pictures = {f"{seed}.jpg": helpers.encoded(seed) for seed in range(3)}
        others = {"notes.json": b"{}", ".hidden.jpg": b"x", "un/named": helpers.encoded(8)}
        stores.upload(folder, pictures | others)

        def job(*flags):
            flags = (*running.flags, *helpers.TINY, "--images_per_shard=2", *flags)
            return main(list(flags)), capsys.readouterr().err

        assert job(f"--input={folder}/", f"--output={folder}/out")[0] == 0
        before = stores.contents(f"{folder}/out")
        assert sum(name.startswith("features-") for name in before) == 2
        code, said = job(f"--input={folder}", f"--output={folder}/out")
        assert (code, "nothing to do" in said, "of an output of this job" in said) == (0, True, True)
        assert job(f"--input={folder}/", f"--output={folder}/out", "--overwrite")[0] == 0
        assert stores.contents(f"{folder}/out") == before
        feature_file = f"{folder}/out/features-00000-of-00002.tfrecord"
        code, said = job(f"--input={feature_file}", f"--output={folder}/other")
        assert (code, "holds features that this job wrote" in said) == (2, True)


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


@pytest.mark.parametrize("folder", [".", "receipts"])
def test_overwriting_in_a_folder_without_the_right_to_delete_leaves_it_as_it_was(finished, folder):
    flags, output = finished
    (output / ".tmp").mkdir()
    before = helpers.contents(output)
    (output / folder).chmod(0o555)
    command = [
        sys.executable,
        "-m",
        "pipeline.main",
        *helpers.TINY,
        *flags,
        f"--output={output}",
        "--overwrite",
    ]
    try:
        done = subprocess.run(
            [*helpers.without_roots_rights(), *command], cwd=helpers.REPO, capture_output=True, text=True
        )
    finally:
        (output / folder).chmod(0o755)
    assert (done.returncode, "cannot be written to" in done.stderr) == (2, True), done.stderr
    assert helpers.contents(output) == before
