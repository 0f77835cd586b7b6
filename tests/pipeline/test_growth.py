"""Inputs that grow: a later job does only what is new."""

import json
import os
import shutil

import pytest

from pipeline import read, verify
from pipeline.flags import RequestError
from pipeline.main import main
from tests import helpers
from tests.pipeline.growing import (
    OF_FILES,
    OF_ROWS,
    csv_packed,
    failed,
    image_files,
    one_tar,
    parquet_images,
    picture,
    split_tfrecords,
    tars,
    tfrecords,
    vectors,
)


@pytest.mark.parametrize("kind", [*OF_FILES, *OF_ROWS], ids=lambda kind: kind.__name__)
def test_each_run_does_what_is_new(tmp_path, folder, capsys, kind):
    days = [tmp_path / "days" / str(day) for day in range(4)]
    skipped = f"--skip_done={tmp_path}/days/*"
    for day, (first, last) in zip(days, [(0, 3), (3, 4), (4, 9)], strict=False):
        flags = kind(folder, first, last)
        helpers.job(*flags, skipped, output=day)
    helpers.job(*flags, output=tmp_path / "whole")
    whole = vectors(tmp_path / "whole")
    assert len(whole) >= 8
    by_day = [vectors(day) for day in days[:3]]
    assert all(by_day)
    assert sorted(failed(*days[:3])) == sorted(failed(tmp_path / "whole"))
    assert len(failed(*days)) >= 1
    if kind in (tfrecords, split_tfrecords):  # whose keys hold what all files of that day have in common
        assert sorted(vectors(*days[:3]).values()) == sorted(whole.values())
    else:
        assert vectors(*days[:3]) == whole
    capsys.readouterr()
    for day in days[:3]:
        assert verify.main([str(day)]) == 0
        helpers.job(*flags, skipped, output=day)
        assert "nothing to do: all shards are committed already" in capsys.readouterr().err
    assert [vectors(day) for day in days[:3]] == by_day


@pytest.mark.parametrize("kind", [tfrecords, image_files, csv_packed], ids=lambda kind: kind.__name__)
def test_a_run_without_anything_new_ends_well(tmp_path, folder, capsys, kind):
    flags = kind(folder, 0, 2)
    helpers.job(*flags, output=tmp_path / "a")
    skipped = f"--skip_done={tmp_path}/a,{tmp_path}/b"
    helpers.job(
        *flags, f"--skip_done={tmp_path}/a", f"--report_file={tmp_path}/report", output=tmp_path / "b"
    )
    assert "hold all of the input" in capsys.readouterr().err
    assert json.loads((tmp_path / "report").read_text())["inputs"] == 0
    assert sorted(helpers.contents(tmp_path / "b")) == ["manifest.json", "request.json"]
    assert verify.main([str(tmp_path / "b")]) == 0
    with pytest.raises(RequestError, match="earlier outputs hold all of its input"):
        read(str(tmp_path / "b"))
    kind(folder, 2, 3)
    helpers.job(*flags, skipped, output=tmp_path / "c")
    assert len(vectors(tmp_path / "c")) == (2 if kind is tfrecords else 1)
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b")  # which did nothing before
    assert vectors(tmp_path / "b") == vectors(tmp_path / "c")


@pytest.mark.parametrize("kind", [tfrecords, csv_packed, parquet_images], ids=lambda kind: kind.__name__)
def test_outputs_of_earlier_versions_list_no_files(tmp_path, folder, kind):
    flags = kind(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    (tmp_path / "a" / "input_files.txt").unlink()
    helpers.job(*flags, output=tmp_path / "a")
    assert not (tmp_path / "a" / "input_files.txt").exists()  # a finished output is left as it is
    kind(folder, 3, 4)
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    assert len({*vectors(tmp_path / "b").values()}) == {tfrecords: 2, csv_packed: 1, parquet_images: 1}[kind]


def test_what_was_moved_is_known_by_its_content(tmp_path, folder):
    flags = tars(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    shutil.move(folder, tmp_path / "moved")
    tars(tmp_path / "moved", 3, 4)
    helpers.job(f"--input={tmp_path}/moved", f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    assert len(vectors(tmp_path / "b")) == 1


def test_paths_with_dots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_tar(tmp_path / "x" / "a.tar", 2)
    one_tar(tmp_path / "w" / "y" / "b.tar", 3)
    monkeypatch.chdir(tmp_path / "w")
    flags = ["--input=../x/a.tar,./y/b.tar"]
    helpers.job(*flags, output=tmp_path / "f" / "1")
    helpers.job(*flags, f"--skip_done={tmp_path}/f/*", output=tmp_path / "f" / "2")
    assert [len(helpers.read_all(tmp_path / "f" / str(n))) for n in (1, 2)] == [2, 0]


def test_a_path_is_the_same_from_elsewhere(tmp_path, folder, monkeypatch):
    image_files(folder, 0, 3)
    monkeypatch.chdir(folder)
    (folder / "a:b #%.jpg ").write_bytes(picture(50))
    helpers.job("--input=.", output=tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    (folder / "0 a" / "9.jpg").write_bytes(picture(9))
    helpers.job("--input=in/", "--skip_done=a", output=tmp_path / "b")
    assert list(vectors(tmp_path / "b")) == [b"in/0 a/9.jpg"]


def test_a_file_that_has_changed_is_done_again(tmp_path, folder, capsys):
    flags = tars(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    shutil.copy(folder / "2.tar", folder / "0.tar")  # of the same size
    os.utime(folder / "1.tar", (0, 0))
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    said = capsys.readouterr().err
    assert (
        f"1 file, such as {folder}/0.tar, has changed since an earlier output was made, and will be done again"
        in said
    )
    assert list(vectors(tmp_path / "b")) == [b"0.tar#2"]


REFUSED = {
    "holds no output of this job": lambda out: shutil.rmtree(out),
    "is not finished: 1 of 2 shards are committed; `python -m pipeline.main --output=": lambda out: (
        out / "receipts" / "00000-of-00002.json"
    ).unlink(),
    "request.json is not the request of a job": lambda out: (out / "request.json").write_text("{}"),
    "is not a receipt": lambda out: (out / "receipts" / "00001-of-00002.json").write_text("{}"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_outputs_that_cannot_be_skipped(tmp_path, folder, capsys, message):
    flags = tars(folder, 0, 2)
    out = tmp_path / "a"
    helpers.job(*flags, output=out)
    REFUSED[message](out)
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={out}", output=tmp_path / "b", expect=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --skip_done={out}")
    assert message in line
    assert not (tmp_path / "b").exists()


def test_an_output_of_another_model_is_refused(tmp_path, folder, capsys):
    flags = image_files(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    capsys.readouterr()
    more = [f"--skip_done={tmp_path}/a", "--image_size=40"]
    helpers.job(*flags, *more, output=tmp_path / "b", expect=2)
    said = capsys.readouterr().err
    assert (
        f"--skip_done={tmp_path}/a was made with preprocessing.image_size = 32, this run requests 40" in said
    )


def test_a_job_does_not_skip_itself(tmp_path, folder, capsys):
    flags = [*image_files(folder, 0, 3), f"--skip_done={tmp_path}/days/*"]
    helpers.job(*flags, output=tmp_path / "days" / "1")
    assert f"--skip_done={tmp_path}/days/*: there is no such output yet" in capsys.readouterr().err
    helpers.job(*flags, output=f"{tmp_path}/days/../days/1/")
    assert "all shards are committed already" in capsys.readouterr().err


def test_a_dry_run_is_of_what_is_new(tmp_path, folder, capsys):
    flags = image_files(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    image_files(folder, 3, 5)
    capsys.readouterr()
    assert main([*helpers.TINY, *flags, f"--skip_done={tmp_path}/a", "--dry_run"]) == 0
    said = capsys.readouterr().err
    assert "--skip_done: 3 files of the input are in 1 earlier output" in said
    assert "of 2 images" in said


def test_files_of_one_name_size_and_time_are_told_apart(tmp_path):
    for folder, seed in (("d1", 0), ("d2", 2), ("d3", 0)):
        one_tar(tmp_path / "in" / folder / "a.tar", seed)
    sizes = {path.stat().st_size for path in (tmp_path / "in").rglob("*.tar")}
    assert len(sizes) == 1
    helpers.job(f"--input={tmp_path}/in/d1", output=tmp_path / "f" / "1")
    for pattern, number in ((f"{tmp_path}/in/d2", 2), (f"{tmp_path}/in", 3)):
        helpers.job(f"--input={pattern}", f"--skip_done={tmp_path}/f/*", output=tmp_path / "f" / str(number))
    # d3 holds the bytes of d1, which is still there: an image of its own, as in a run over everything.
    assert [len(vectors(tmp_path / "f" / str(number))) for number in (1, 2, 3)] == [1, 1, 1]
    (tmp_path / "in" / "d1").rename(tmp_path / "in" / "d4")
    shutil.copytree(tmp_path / "in" / "d4", tmp_path / "in" / "d5")
    helpers.job(f"--input={tmp_path}/in", f"--skip_done={tmp_path}/f/*", output=tmp_path / "f" / "4")
    assert len(vectors(tmp_path / "f" / "4")) == 1  # one of these two was moved


def test_an_output_that_lost_its_receipts_is_refused(tmp_path, folder, capsys):
    flags = image_files(folder, 0, 3)
    helpers.job(*flags, output=tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "receipts")
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=2)
    assert "holds no output of this job, or has lost its receipts" in capsys.readouterr().err
    helpers.job(*flags, "--overwrite", output=tmp_path / "a")
    (tmp_path / "a" / "inputs.txt").write_text(f"{folder}/elsewhere.jpg\n" * 3)
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=2)
    assert "inputs.txt is not the list that shard 00000-of-" in capsys.readouterr().err


def test_paths_through_links(tmp_path, capsys):
    (tmp_path / "else" / "dir").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "link").symlink_to(tmp_path / "else" / "dir")
    for at, seed in (("x/pics", 0), ("else/pics", 2)):
        (tmp_path / at).mkdir()
        (tmp_path / at / "0.jpg").write_bytes(picture(seed))
    helpers.job(f"--input={tmp_path}/x/pics", output=tmp_path / "f" / "1")
    (tmp_path / "g").symlink_to(tmp_path / "f")
    there = f"--input={tmp_path}/x/link/../pics"
    helpers.job(there, f"--skip_done={tmp_path}/g/*", output=tmp_path / "f" / "2")
    assert len(vectors(tmp_path / "f" / "2")) == 1
    next((tmp_path / "f" / "2" / "receipts").iterdir()).unlink()
    helpers.job(there, f"--skip_done={tmp_path}/g/*", output=tmp_path / "f" / "2")  # which is g/2, too


def test_pictures_that_changed_under_their_names_are_told_of(tmp_path, folder, capsys):
    flags = image_files(folder, 2, 4)
    helpers.job(*flags, output=tmp_path / "a")
    os.utime(folder / "0 a" / "2.jpg", (4e9, 4e9))
    image_files(folder, 5, 6)
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    said = capsys.readouterr().err
    assert (
        f"1 file of them, such as {folder}/0 a/2.jpg, changed after that, and is left out all the same"
        in said
    )


def test_a_file_by_two_paths_is_two_inputs_as_without_the_flag(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    one_tar(folder / "a.tar", 2)
    helpers.job("--input=a.tar", output=tmp_path / "f" / "1")
    one_tar(folder / "b.tar", 3)
    flags = ["--input=a.tar,b.tar,./b.tar", f"--skip_done={tmp_path}/f/*"]
    helpers.job(*flags, output=tmp_path / "f" / "2")
    assert len(helpers.read_all(tmp_path / "f" / "2")) == 2


def test_outputs_within_the_input(tmp_path, folder, capsys):
    flags = image_files(folder, 2, 4)[0].replace(str(folder), f"{folder}/**")
    skipped = f"--skip_done={folder}/f/*"
    for day in range(4):
        if day == 2:
            image_files(folder, 4, 5)
        helpers.job(flags, skipped, output=folder / "f" / str(day))
    assert [len(helpers.read_all(folder / "f" / str(day))) for day in range(4)] == [2, 0, 1, 0]
    capsys.readouterr()
    assert main([*helpers.TINY, flags, skipped, "--dry_run"]) == 0
    assert "dry run: the outputs in --skip_done hold all of the input" in capsys.readouterr().err


def test_a_file_that_has_the_name_of_one_that_is_gone(tmp_path, folder, capsys):
    flags = tars(folder, 2, 3)
    helpers.job(*flags, output=tmp_path / "a")
    (folder / "2.tar").unlink()
    (folder / "sub").mkdir()
    one_tar(folder / "sub" / "2.tar", 7)
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    assert (
        "1 file, such as 2.tar, has the name of one in an earlier output, and so the same keys"
        in capsys.readouterr().err
    )
