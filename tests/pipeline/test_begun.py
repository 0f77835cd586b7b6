"""An output goes on with what it was begun with, whatever has come to its input since, or been killed."""

import json
import shutil

import pytest

from pipeline.main import main
from tests import helpers
from tests.pipeline.growing import (
    OF_FILES,
    OF_ROWS,
    begun,
    image_files,
    one_tar,
    tars,
    tfrecords,
    txt,
    undisturbed,
    vectors,
)


@pytest.mark.parametrize("kind", OF_FILES, ids=lambda kind: kind.__name__)
def test_an_output_goes_on_with_the_files_that_it_was_begun_with(tmp_path, folder, capsys, kind):
    flags = kind(folder, 0, 4)
    out = tmp_path / "out"
    helpers.job(*flags, output=out)
    before, seen = helpers.contents(out), {*vectors(out)}
    (lost, *_) = sorted((out / "receipts").iterdir())
    lost.unlink()
    kind(folder, 4, 6)
    capsys.readouterr()
    helpers.job(*flags, f"--report_file={tmp_path}/report", output=out)
    said = capsys.readouterr().err
    assert f"--input has grown since {out} was begun (2 new files, such as {folder}/" in said
    assert (
        f"leaves out: --skip_done={out} with another --output does it, once this output is finished" in said
    )
    assert (
        list(json.loads((tmp_path / "report").read_text())["left_out"].values())
        == ["new since the output was begun"] * 2
    )
    assert helpers.contents(out) == before
    helpers.job(*flags, "--retry_failures", output=out)
    assert helpers.contents(out) == before
    capsys.readouterr()
    helpers.job(*flags, output=out, expect=2)
    said = capsys.readouterr().err
    assert (
        f"{out} is finished, and --input has grown since it was begun (2 new files, such as {folder}/" in said
    )
    remedy = f"--skip_done={out} with another --output does only the new files and rows; --overwrite does all again"
    assert remedy in said
    helpers.job(*flags, "--overwrite", output=out)
    assert {*vectors(out)} > seen


@pytest.mark.parametrize("kind", OF_ROWS, ids=lambda kind: kind.__name__)
def test_an_output_goes_on_with_the_rows_that_it_was_begun_with(tmp_path, folder, capsys, kind):
    flags, out = [*kind(folder, 0, 4), "--images_per_shard=2"], tmp_path / "out"
    (list_file,) = (path for path in folder.iterdir() if path.is_file())
    helpers.job(*flags, output=out)
    before, seen = helpers.contents(out), {*vectors(out)}
    (out / "receipts" / "00001-of-00002.json").unlink()
    kind(folder, 4, 6)
    capsys.readouterr()
    helpers.job(*flags, output=out)
    assert (
        f"has grown since {out} was begun (further rows in 1 list, such as {list_file})"
        in capsys.readouterr().err
    )
    assert helpers.contents(out) == before
    helpers.job(*flags, output=out, expect=2)
    assert (
        f"has grown since it was begun (further rows in 1 list, such as {list_file})"
        in capsys.readouterr().err
    )
    helpers.job(*flags, "--overwrite", output=out)
    assert {*vectors(out)} > seen


def test_so_does_one_of_which_no_shard_was_done(tmp_path, folder, monkeypatch):
    flags = [*image_files(folder, 0, 3), "--skip_done=" + str(tmp_path / "days/*")]
    begun(*flags, output=tmp_path / "out", monkeypatch=monkeypatch)
    listed = (tmp_path / "out" / "inputs.txt").read_text()
    image_files(folder, 3, 5)
    assert main([f"--output={tmp_path}/out"]) == 0
    assert (tmp_path / "out" / "inputs.txt").read_text() == listed
    assert len(vectors(tmp_path / "out")) == 2


@pytest.mark.parametrize("kind", [tfrecords, image_files, txt], ids=lambda kind: kind.__name__)
def test_an_output_of_what_was_new_goes_on_by_itself(tmp_path, folder, kind):
    flags = kind(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    kind(folder, 3, 7)
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    before = undisturbed(tmp_path / "b")
    for receipt in sorted((tmp_path / "b" / "receipts").iterdir())[:1]:
        receipt.unlink()
    kind(folder, 7, 8)
    assert main([f"--output={tmp_path}/b"]) == 0
    assert undisturbed(tmp_path / "b") == before
    kept = json.loads((tmp_path / "b" / "request.json").read_text())
    assert kept["skip_done"] == [f"{tmp_path}/a"]
    assert "skip_done" not in json.loads((tmp_path / "a" / "request.json").read_text())


def test_keys_stay_the_same_if_the_first_start_was_killed(tmp_path, folder, monkeypatch):
    one_tar(folder / "x.tar", 2)
    helpers.job(f"--input={folder}", output=tmp_path / "f" / "1")
    one_tar(folder / "a" / "x.tar", 3)
    flags = [f"--input={folder}", f"--skip_done={tmp_path}/f/*"]
    begun(*flags, output=tmp_path / "f" / "2", monkeypatch=monkeypatch)
    helpers.job(*flags, output=tmp_path / "f" / "2")
    assert list(vectors(tmp_path / "f" / "2")) == [b"a/x.tar#3"]


def test_the_folder_of_names_is_found_again(tmp_path, folder):
    one_tar(folder / "b.tar", 2)
    helpers.job(f"--input={folder}", output=tmp_path / "f" / "1")
    one_tar(folder / "a" / "a" / "x.tar", 3)
    one_tar(folder / "a" / "x.tar", 4)
    flags = [f"--input={folder}", f"--skip_done={tmp_path}/f/*"]
    helpers.job(*flags, output=tmp_path / "f" / "2")
    before = undisturbed(tmp_path / "f" / "2")
    for number in (0, 1):
        (tmp_path / "f" / "2" / "receipts" / f"0000{number}-of-00002.json").unlink()
        helpers.job(*flags, output=tmp_path / "f" / "2")
        assert undisturbed(tmp_path / "f" / "2") == before


def test_the_list_of_files_is_no_file_of_others(tmp_path, folder, capsys):
    flags = tars(folder, 0, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "input_files.txt").write_text("mine\n")
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert "input_files.txt, which this job did not write" in capsys.readouterr().err
    helpers.job(*flags, output=tmp_path / "good")
    assert (tmp_path / "good" / "input_files.txt").read_text() == f"{folder}/0.tar\n"
    assert not (tmp_path / "good" / "inputs.txt").exists()


def test_an_overwritten_output_keeps_no_list_of_its_former_input(tmp_path, folder):
    images = image_files(tmp_path, 0, 0)[0].replace(str(tmp_path), f"{tmp_path}/im")
    (tmp_path / "im").mkdir()
    image_files(tmp_path / "im", 2, 4)
    of_tars = tars(folder, 2, 3)
    helpers.job(images, output=tmp_path / "a")
    helpers.job(*of_tars, "--overwrite", output=tmp_path / "a")
    assert not (tmp_path / "a" / "inputs.txt").exists()
    helpers.job(images, f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    assert len(vectors(tmp_path / "b")) == 2
    helpers.job(images, "--overwrite", f"--skip_done={tmp_path}/b", output=tmp_path / "a")
    assert sorted(helpers.contents(tmp_path / "a")) == ["manifest.json", "request.json"]


def test_a_file_that_is_gone_since_is_refused(tmp_path, folder, capsys, monkeypatch):
    flags = tars(folder, 2, 4)
    helpers.job(*flags, output=tmp_path / "a")
    tars(folder, 4, 6)
    begun(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", monkeypatch=monkeypatch)
    (folder / "5.tar").unlink()
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=2)
    said = capsys.readouterr().err
    assert (
        f"was begun with 1 file that --input has no longer, such as {folder}/5.tar: use another --output"
        in said
    )


def test_names_stay_as_they_were_when_folders_come_and_go(tmp_path):
    for name in ("a/0", "a/1", "a/2"):
        one_tar(tmp_path / "in" / f"{name}.tar", int(name[-1]) + 10)
        if name == "a/0":
            helpers.job(f"--input={tmp_path}/in", output=tmp_path / "f" / "1")
    skipped = f"--skip_done={tmp_path}/f/1"
    helpers.job(f"--input={tmp_path}/in", skipped, output=tmp_path / "f" / "2")
    before = undisturbed(tmp_path / "f" / "2")
    one_tar(tmp_path / "in" / "b" / "3.tar", 13)
    (tmp_path / "in" / "a" / "0.tar").unlink()
    (tmp_path / "f" / "2" / "receipts" / "00000-of-00002.json").unlink()
    helpers.job(f"--input={tmp_path}/in", skipped, output=tmp_path / "f" / "2")
    assert undisturbed(tmp_path / "f" / "2") == before


def test_what_was_begun_needs_no_other_output(tmp_path, folder, capsys, monkeypatch):
    flags = [*image_files(folder, 2, 4), f"--skip_done={tmp_path}/f/*"]
    begun(*flags, output=tmp_path / "f" / "1", monkeypatch=monkeypatch)
    shutil.move(tmp_path / "f" / "1", tmp_path / "1")
    image_files(folder, 4, 6)
    begun(*flags, output=tmp_path / "f" / "2", monkeypatch=monkeypatch)
    shutil.move(tmp_path / "1", tmp_path / "f" / "1")
    capsys.readouterr()
    for number, count in ((1, 2), (2, 4)):
        helpers.job(*flags, output=tmp_path / "f" / str(number))
        assert len(vectors(tmp_path / "f" / str(number))) == count
    assert "has grown" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "f" / "1")
    assert main([f"--output={tmp_path}/f/2", "--retry_failures"]) == 0


def test_a_start_that_was_killed_before_it_kept_its_request_goes_on(tmp_path, folder, monkeypatch):
    flags = [*image_files(folder, 2, 12), "--batch_size=4"]
    begun(*flags, output=tmp_path / "out", monkeypatch=monkeypatch)
    for name in ("request.json", "inputs.txt"):
        (tmp_path / "out" / name).unlink()
    helpers.job(*flags, output=tmp_path / "out")
    assert len(list((tmp_path / "out" / "receipts").iterdir())) == 3
