"""Inputs that grow: a later job does only what is new, and one that was begun before goes on as it was begun."""

import gzip
import io
import json
import os
import shutil
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import read, verify
from pipeline.flags import RequestError
from pipeline.main import main
from tests import helpers

BROKEN = 1  # the seed of a picture that cannot be decoded


def picture(seed):
    return b"no picture" if seed == BROKEN else helpers.encoded(seed)


def tfrecords(folder, first, last):
    for seed in range(first, last):
        records = [helpers.example({"image/encoded": picture(seed + at), "label": [seed]}) for at in (0, 100)]
        helpers.write_tfrecord(folder / f"{seed // 2}" / f"{seed}.tfrecord", records)
    return [f"--input={folder}/**.tfrecord", "--pass_through=label"]


def split_tfrecords(folder, first, last):
    return [*tfrecords(folder, first, last), "--split_bytes=1KiB"]


def tars(folder, first, last):
    for seed in range(first, last):
        with tarfile.open(folder / f"{seed}.tar", "w") as archive:
            member = tarfile.TarInfo(f"{seed}.jpg")
            member.size = len(picture(seed))
            archive.addfile(member, io.BytesIO(picture(seed)))
    return [f"--input={folder}"]


def parquet_images(folder, first, last):
    for seed in range(first, last):
        rows = [{"bytes": picture(seed), "path": ""}] * 3
        pyarrow.parquet.write_table(pyarrow.table({"image": rows}), folder / f"{seed}.parquet")
    return [f"--input={folder}/*.parquet", "--batch_size=2"]


def image_files(folder, first, last):
    for seed in range(first, last):
        (folder / f"{seed % 2} a").mkdir(exist_ok=True)
        (folder / f"{seed % 2} a" / f"{seed}.jpg").write_bytes(picture(seed))
    return [f"--input={folder}", "--batch_size=2"]


def rows(folder, first, last):
    """The paths of pictures 0 to `last`, of which those from `first` on are new."""
    (folder / "pictures").mkdir(exist_ok=True)
    for seed in range(first, last):
        (folder / "pictures" / f"{seed}.jpg").write_bytes(picture(seed))
    return [f"pictures/{seed}.jpg" for seed in range(last)]


def txt(folder, first, last):
    (folder / "list.txt").write_text("\n".join(rows(folder, first, last)))  # the last line has no end
    return [f"--input={folder}/list.txt", "--images_per_shard=2"]


def csv_packed(folder, first, last):
    lines = "".join(f'"a ""{name}""\n",{name}\r\n' for name in rows(folder, first, last))
    with gzip.open(folder / "list.csv.gz", "wt", newline="") as stream:
        stream.write(f"text,uri\r\n{lines}")
    return [f"--input={folder}/list.csv.gz", "--pass_through=text"]


def jsonl(folder, first, last):
    lines = [
        {"uri": name, "n": n + (0.5 if n > 3 else 0)} for n, name in enumerate(rows(folder, first, last))
    ]
    (folder / "list.jsonl").write_text("".join(f"{json.dumps(line)}\n\n" for line in lines))
    return [f"--input={folder}/list.jsonl", "--pass_through=n:float", "--images_per_shard=3"]


def parquet_list(folder, first, last):
    pyarrow.parquet.write_table(pyarrow.table({"uri": rows(folder, first, last)}), folder / "list.parquet")
    return [f"--input={folder}/list.parquet", "--images_per_shard=2"]


OF_FILES = (tfrecords, split_tfrecords, tars, parquet_images, image_files)
OF_ROWS = (txt, csv_packed, jsonl, parquet_list)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def vectors(*outputs):
    """Key -> embedding of all records of some outputs, in which no key comes twice."""
    records = [record for output in outputs for record in helpers.read_all(output)]
    out = {record["key"][0]: record["embedding"].tobytes() for record in records}
    assert len(out) == len(records)
    return out


def failed(*outputs):
    return [line["key"] for output in outputs for line in helpers.read_ledger(output)]


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


def undisturbed(output):
    return {name: data for name, data in helpers.contents(output).items() if name != "request.json"}


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


def test_a_list_elsewhere_with_the_same_relative_names_is_another(tmp_path, folder):
    for name, seeds in (("a", (2,)), ("b", (3, 4))):
        (folder / name).mkdir()
        for at, seed in enumerate(seeds):
            (folder / name / f"{at}.jpg").write_bytes(picture(seed))
        (folder / name / "list.txt").write_text("".join(f"{at}.jpg\n" for at in range(len(seeds))))
        flags = [f"--input={folder}/*/list.txt", f"--skip_done={tmp_path}/f/*"]
        helpers.job(*flags, output=tmp_path / "f" / name)
    assert [len(helpers.read_all(tmp_path / "f" / name)) for name in "ab"] == [1, 2]
    shutil.rmtree(folder / "a")
    (folder / "b").rename(folder / "c")  # where they may mean other pictures
    helpers.job(*flags, output=tmp_path / "f" / "c")
    assert len(helpers.read_all(tmp_path / "f" / "c")) == 2


def test_a_list_is_told_from_one_that_holds_the_same_rows(tmp_path, folder):
    names = names_of(folder, [2, 3, 4])
    for at, count, output in (("p", 1, "1"), ("p", 3, "2"), ("q", 2, "3"), ("p", 3, "4")):
        (folder / at).mkdir(exist_ok=True)
        (folder / at / "l.txt").write_text("".join(f"{name}\n" for name in names[:count]))
        flags = [f"--input={folder}/{at}/l.txt"]
        skipped = [f"--skip_done={tmp_path}/f/*"] if at == "p" else []
        helpers.job(*flags, *skipped, output=tmp_path / "f" / output)
    done = [len(helpers.read_all(tmp_path / "f" / str(n))) for n in (1, 2, 3, 4)]
    assert done == [1, 2, 2, 0]


def test_paths_with_dots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_tar(tmp_path / "x" / "a.tar", 2)
    one_tar(tmp_path / "w" / "y" / "b.tar", 3)
    monkeypatch.chdir(tmp_path / "w")
    flags = ["--input=../x/a.tar,./y/b.tar"]
    helpers.job(*flags, output=tmp_path / "f" / "1")
    helpers.job(*flags, f"--skip_done={tmp_path}/f/*", output=tmp_path / "f" / "2")
    assert [len(helpers.read_all(tmp_path / "f" / str(n))) for n in (1, 2)] == [2, 0]


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


@pytest.mark.parametrize("kind", [txt, parquet_list], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", ["in front", "within", "fewer", "a longer last row"])
def test_a_list_that_has_changed_where_it_was_done_is_refused(tmp_path, folder, capsys, kind, how):
    flags = kind(folder, 0, 5)
    helpers.job(*flags, output=tmp_path / "a")
    names = rows(folder, 5, 6)
    names = {
        "in front": [names[-1], *names[:-1]],
        "within": [*names[:2], names[0], *names[3:]],
        "fewer": names[:3],
        "a longer last row": [*names[:4], f"{names[4]}.jpg", names[5]],
    }[how]
    if kind is txt:
        (folder / "list.txt").write_text("\n".join(names))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"uri": names}), folder / "list.parquet")
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=2)
    assert "has other rows than those that an output in --skip_done is made of" in capsys.readouterr().err


def test_lists_of_one_name(tmp_path, folder):
    names = [f"{folder}/{name}" for name in rows(folder, 0, 4)]
    for name, count in (("a", 2), ("b", 4)):
        (folder / name).mkdir()
        (folder / name / "list.txt").write_text("".join(f"{path}\n" for path in names[:count]))
    flags = [f"--input={folder}/a/list.txt,{folder}/b/list.txt", "--images_per_shard=2"]
    helpers.job(*flags, output=tmp_path / "one")
    for name, more in (("a", [3]), ("b", [0, 1])):
        with open(folder / name / "list.txt", "a") as stream:
            stream.writelines(f"{names[seed]}\n" for seed in more)
    helpers.job(*flags, f"--skip_done={tmp_path}/one", output=tmp_path / "two")
    keys = [record["key"][0].decode() for record in helpers.read_all(tmp_path / "two")]
    assert keys == [names[3], names[0]]
    assert failed(tmp_path / "two") == [names[1]]


def test_columns_keep_the_types_of_the_earlier_output(tmp_path, folder):
    flags = jsonl(folder, 0, 4)[0]
    helpers.job(flags, "--pass_through=n", output=tmp_path / "a")
    jsonl(folder, 4, 6)
    helpers.job(flags, "--pass_through=n", f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    assert helpers.manifest(tmp_path / "b")["schema"]["pass_through_types"] == {"n": "int64"}
    assert helpers.manifest(tmp_path / "b")["unfit_values"] == 2  # as for rows that come later in one list


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


def test_the_list_of_files_is_no_file_of_others(tmp_path, folder, capsys):
    flags = tars(folder, 0, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "input_files.txt").write_text("mine\n")
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert "input_files.txt, which this job did not write" in capsys.readouterr().err
    helpers.job(*flags, output=tmp_path / "good")
    assert (tmp_path / "good" / "input_files.txt").read_text() == f"{folder}/0.tar\n"
    assert not (tmp_path / "good" / "inputs.txt").exists()


def one_tar(path, seed, modified=1e9):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(f"{seed}.jpg")
        member.size = len(picture(seed))
        archive.addfile(member, io.BytesIO(picture(seed)))
    os.utime(path, (modified, modified))


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


def begun(*flags, output, monkeypatch):
    """A start that is killed before its first commit."""
    from pipeline import run

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            main([*helpers.TINY, *flags, f"--output={output}"])


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


def test_a_file_by_two_paths_is_two_inputs_as_without_the_flag(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    one_tar(folder / "a.tar", 2)
    helpers.job("--input=a.tar", output=tmp_path / "f" / "1")
    one_tar(folder / "b.tar", 3)
    flags = ["--input=a.tar,b.tar,./b.tar", f"--skip_done={tmp_path}/f/*"]
    helpers.job(*flags, output=tmp_path / "f" / "2")
    assert len(helpers.read_all(tmp_path / "f" / "2")) == 2


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


def names_of(folder, seeds):
    """Complete names of as many bytes each."""
    (folder / "pictures").mkdir(exist_ok=True)
    for seed in seeds:
        (folder / "pictures" / f"{seed:03d}.jpg").write_bytes(picture(seed))
    return [f"{folder}/pictures/{seed:03d}.jpg" for seed in seeds]


def days_of_lists(tmp_path, folder, *days, move=lambda day: None):
    """Runs a job for each day, on which lists get further rows: name of a folder -> seeds. Returns the seeds that each did."""
    done = []
    for day, more in enumerate(days):
        move(day)
        for name, seeds in more.items():
            (folder / name).mkdir(exist_ok=True)
            with open(folder / name / "list.txt", "a") as stream:
                stream.writelines(f"{path}\n" for path in names_of(folder, seeds))
        flags = [f"--input={folder}/*/list.txt", f"--skip_done={tmp_path}/f/*"]
        helpers.job(*flags, output=tmp_path / "f" / str(day))
        keys = [record["key"][0].decode() for record in helpers.read_all(tmp_path / "f" / str(day))]
        done.append([int(key[-7:-4]) for key in keys])
    return done


def test_lists_of_one_name_over_days(tmp_path, folder):
    days = [{"a": [2], "b": [3, 4]}, {"b": [5]}, {"a": [6], "b": [7]}, {}]
    assert days_of_lists(tmp_path, folder, *days) == [[2, 3, 4], [5], [6, 7], []]


def test_a_new_list_of_the_same_name_that_ends_where_another_goes_on(tmp_path, folder):
    days = [{"b": [2, 3]}, {"a": [4, 5], "b": [6]}, {"a": [7], "b": [8]}]
    assert days_of_lists(tmp_path, folder, *days) == [[2, 3], [4, 5, 6], [7, 8]]


def test_a_list_that_moves_and_goes_on_growing(tmp_path, folder):
    def move(day):
        if day == 1:
            (folder / "a").rename(folder / "b")

    days = [{"a": [2, 3]}, {"b": [4]}, {"b": [5]}]
    assert days_of_lists(tmp_path, folder, *days, move=move) == [[2, 3], [4], [5]]


def test_a_list_that_was_empty_gets_rows_while_the_output_is_not_finished(tmp_path, folder):
    (path,) = names_of(folder, [2])
    (folder / "a.txt").write_text(f"{path}\n")
    (folder / "b.txt").write_text("")
    flags = [f"--input={folder}/*.txt"]
    helpers.job(*flags, output=tmp_path / "out")
    before = helpers.contents(tmp_path / "out")
    assert before["input_files.txt"].decode() == f"{folder}/a.txt[0:{len(path) + 1}]\n{folder}/b.txt[0:0]\n"
    next((tmp_path / "out" / "receipts").iterdir()).unlink()
    (folder / "b.txt").write_text(f"{path}\n")
    helpers.job(*flags, output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == before


def test_the_first_names_of_a_list_decide_what_new_ones_are_relative_to(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = txt(folder, 2, 4)
    names = rows(folder, 2, 4)[2:]
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    helpers.job(*flags, output=tmp_path / "a")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "9.jpg").write_bytes(picture(9))
    with open(folder / "list.txt", "a") as stream:
        stream.write("pictures/9.jpg\n")
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=3)
    (line,) = helpers.read_ledger(tmp_path / "b")
    assert (line["key"], line["code"]) == ("pictures/9.jpg", "not_found")
    for old in (folder, tmp_path):  # once they are done
        shutil.rmtree(old / "pictures")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "10.jpg").write_bytes(picture(10))
    with open(folder / "list.txt", "a") as stream:
        stream.write("pictures/10.jpg\n")
    helpers.job(*flags, f"--skip_done={tmp_path}/a,{tmp_path}/b", output=tmp_path / "c")
    assert list(vectors(tmp_path / "c")) == [b"pictures/10.jpg"]


def test_other_columns_of_a_list_are_named(tmp_path, folder, capsys):
    names = rows(folder, 2, 4)[2:]
    table = pyarrow.table({"uri": names, "n": [1, 2]})
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    helpers.job(f"--input={folder}/list.parquet", output=tmp_path / "a")
    flags = [f"--input={folder}/list.parquet", "--pass_through=n", f"--skip_done={tmp_path}/a"]
    capsys.readouterr()
    helpers.job(*flags, output=tmp_path / "b", expect=2)
    assert "was made with schema.pass_through = [], this run requests ['n']" in capsys.readouterr().err


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
