"""Which files of a request's folders and globs are input, and the reasons for leaving out the others."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.parse

import pytest

from pipeline import options, plan, verify
from tests import helpers
from transforms.sources import earlier, finding, kinds, left_out
from transforms.sources.base import BadInput, ReadSettings

SETTINGS = ReadSettings(2)


def find(*patterns, input_format="auto"):
    return finding.find([str(pattern) for pattern in patterns], input_format, SETTINGS)


def names(inputs, folder):
    return [os.path.relpath(file.path, folder) for file in inputs.files]


def reasons(inputs, folder):
    return {os.path.relpath(path, folder): reason for path, reason in inputs.left_out.items()}


def put(path, data=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with one JPEG, a.jpg."""
    put(tmp_path / "in" / "a.jpg", helpers.encoded(0))
    return tmp_path / "in"


# names that look like patterns


ODD = [
    "[a].jpg",
    "*.jpg",
    "a?.jpg",
    "{0..3}.jpg",
    "{9..1}.jpg",
    "a,b.jpg",
    ",.jpg",
    "a,[b],{c}.jpg",
    "[a]{0..1},x*.jpg",
]


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_is_named_like_a_pattern(tmp_path, name):
    put(tmp_path / name, helpers.encoded(0))
    put(tmp_path / "other.jpg.txt", b"https://h/a.jpg\n")
    assert [file.path for file in find(tmp_path / name).files] == [f"{tmp_path}/{name}"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("rest", ["", "/", "/in/*.jpg", "/**", "/in/a.jpg", "/in/{a..b}.jpg"])
def test_a_folder_that_is_named_like_a_pattern(tmp_path, name, rest):
    put(tmp_path / name / "in" / ("{a..b}.jpg" if "{" in rest else "a.jpg"), helpers.encoded(0))
    put(tmp_path / "z" / "in" / "a.jpg.d", helpers.encoded(1))
    (file,) = find(f"{tmp_path}/{name}{rest}").files
    assert os.path.dirname(file.path) == f"{tmp_path}/{name}/in"


def test_a_pattern_that_matches_is_a_pattern(tmp_path):
    for name in ("[a].jpg", "a.jpg", "0.jpg", "1.jpg", "{0..1}.jpg", "a.jpg,0.jpg"):
        put(tmp_path / name, helpers.encoded(0))
    assert names(find(tmp_path / "[a].jpg"), tmp_path) == ["a.jpg"]
    assert names(find(tmp_path / "{0..1}.jpg"), tmp_path) == ["0.jpg", "1.jpg"]
    assert names(find(f"{tmp_path}/a.jpg,{tmp_path}/0.jpg"), tmp_path) == ["a.jpg", "0.jpg"]


def test_a_file_by_several_paths_is_several_inputs_and_a_note_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/b/2.jpg", "c/3.jpg"):
        put(tmp_path / name, helpers.encoded(0))
    for text, count, note in (
        ("a,a/,a/b,c", 3, ""),
        ("a/*.jpg,a/b", 2, ""),
        ("a,./a", 4, "2 files more than once, by several paths, and each is processed: ./a/1.jpg is a/1.jpg"),
        (
            f"a,{tmp_path}/a/b",
            3,
            f"1 file more than once, by several paths, and each is processed: {tmp_path}/a/b/2.jpg is",
        ),
        ("a/b,c/../a/b/*.jpg", 2, "c/../a/b/2.jpg is a/b/2.jpg"),
    ):
        config, _ = options.parse([f"--input={text}", "--output=out", "--model=untrained/tiny"])
        found = find(text)
        assert len(found.files) == count
        notes = list(plan._notes(config, found))
        assert len(notes) == bool(note)
        assert note in "".join(notes)


def test_names_with_commas_in_a_list_of_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.jpg", "c.jpg", "d", "d,[e].jpg", "f{0..1},g.jpg"):
        put(tmp_path / name, helpers.encoded(0))
    inputs = find("a,b.jpg,c.jpg,d,[e].jpg,f{0..1},g.jpg,,c.jpg")
    assert [file.path for file in inputs.files] == ["a,b.jpg", "c.jpg", "d,[e].jpg", "f{0..1},g.jpg"]
    with pytest.raises(BadInput, match=r"--input=b.jpg: no file matches"):
        find("c.jpg,b.jpg")
    with pytest.raises(BadInput, match=r"\{9..1\} is not a range"):
        find("c.jpg,{9..1}")


# files recognized by their first bytes


@pytest.mark.parametrize("name", ["b.jfif", "b", "b.JPG_large", "within/b.0001", "b.bin"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_told_by_their_bytes_where_their_names_say_nothing(folder, name, kind):
    put(folder / name, helpers.encoded(1, kind))
    inputs = find(folder)
    assert inputs.kind.name == "images"
    assert sorted(names(inputs, folder)) == sorted(["a.jpg", name])
    assert not inputs.left_out


def test_what_is_no_picture_is_left_out_and_said_by_its_suffix(folder):
    for name in ("notes.txt", "within/more.txt", "README", "table.csv", "empty"):
        put(folder / name, b"text" if name != "empty" else b"")
    inputs = find(f"{folder}/")
    assert names(inputs, folder) == ["a.jpg"]
    assert reasons(inputs, folder) == {
        "notes.txt": ".txt",
        "within/more.txt": ".txt",
        "table.csv": ".csv",
        "README": "without suffix",
        "empty": "without suffix",
    }
    assert finding.summary(inputs.left_out) == (
        f"2 .txt ({folder}/notes.txt), 2 without suffix ({folder}/README), 1 .csv ({folder}/table.csv)"
    )


LEFT_OUT = {
    ".DS_Store": "hidden",
    "._a.jpg": "hidden",
    ".thumbnails/a.jpg": "hidden",
    "_SUCCESS": "_SUCCESS",
    "Thumbs.db": "Thumbs.db",
    "_temporary/0/part.jpg": "in _temporary/",
    "__MACOSX/a.jpg": "in __MACOSX/",
    "x.tfrecord.idx": ".idx",
    "x.tfrecord.index": ".index",
    "x.tfrecord.crc": ".crc",
    "x.tfrecord.md5": ".md5",
}


@pytest.mark.parametrize("pattern", ["{}", "{}/**"])
def test_what_systems_and_tools_leave_behind_is_never_input(folder, pattern):
    for name in LEFT_OUT:
        put(folder / name, helpers.encoded(2))
    inputs = find(pattern.format(folder))
    assert names(inputs, folder) == ["a.jpg"]
    assert reasons(inputs, folder) == LEFT_OUT


@pytest.mark.parametrize("name", [".b.jpg", "b.tfrecord.idx", "_SUCCESS"])
def test_a_file_that_is_named_is_never_left_out(folder, name):
    path = put(folder / name, helpers.encoded(2))
    inputs = find(path, input_format="images")
    assert (names(inputs, folder), inputs.left_out) == ([name], {})


def test_a_glob_that_names_hidden_files_has_them(folder):
    put(folder / ".b.jpg", helpers.encoded(1))
    assert names(find(f"{folder}/.*.jpg"), folder) == [".b.jpg"]


def test_a_folder_without_input_is_refused_with_what_it_holds(tmp_path):
    put(tmp_path / "in" / "notes.txt", b"text")
    with pytest.raises(BadInput, match=r"no input in this folder, .* tfrecord, .*images \(left out: 1 \.txt"):
        find(tmp_path / "in")
    put(tmp_path / "in" / "x.jpg.md5", b"text")
    with pytest.raises(BadInput, match=r"all that matches is left out: 1 \.md5"):
        find(f"{tmp_path}/in/*.md5")
    with pytest.raises(BadInput, match="no file matches"):
        find(f"{tmp_path}/in/*.jpg")


@pytest.mark.parametrize("kind", [kind.name for kind in kinds.KINDS])
def test_an_input_format_takes_files_of_its_kind_from_a_folder(folder, kind):
    files = {
        "tfrecord": "b.tfrecord",
        "images": "a.jpg",
        "parquet_images": "c.parquet",
        "webdataset": "b.tar",
    }
    put(folder / "b.tfrecord", b"")
    put(folder / "b.tar", b"")
    for suffix in ("txt", "csv", "jsonl", "parquet"):
        put(folder / f"c.{suffix}", b"x")
    assert names(find(folder, input_format=kind), folder) == [files.get(kind, f"c.{kind}")]


def test_globs_reach_as_deep_as_they_say(folder, monkeypatch):
    for name in ("b1/c.jpg", "b1/d/e.jpg", "b2/c.jpg", "x/c.jpg"):
        put(folder / name, helpers.encoded(1))
    assert names(find(f"{folder}/b*/*.jpg"), folder) == ["b1/c.jpg", "b2/c.jpg"]
    assert names(find(f"{folder}/b*/**.jpg"), folder) == ["b1/c.jpg", "b1/d/e.jpg", "b2/c.jpg"]
    assert names(find(f"{folder}/*.jpg"), folder) == ["a.jpg"]
    monkeypatch.chdir(folder)
    assert [file.path for file in find("*.jpg").files] == ["a.jpg"]
    assert [file.path for file in find("b1").files] == ["b1/c.jpg", "b1/d/e.jpg"]
    assert [file.path for file in find("b1/").files] == ["b1/c.jpg", "b1/d/e.jpg"]


BESIDE_PICTURES = {
    "backup.bz2": b"BZh9 cut short",
    "log.gz": gzip.compress(b"text" * 1000)[:50],
    "dump.zst": b"\x28\xb5\x2f\xfd",
    "b.jpg.gz": gzip.compress(helpers.encoded(1)),
    "shopping": b"P1 buy milk",
}


@pytest.mark.parametrize("name", BESIDE_PICTURES)
def test_compressed_files_and_texts_beside_pictures_are_left_out(folder, name):
    put(folder / name, BESIDE_PICTURES[name])
    found = find(folder)
    assert names(found, folder) == ["a.jpg"]
    assert list(reasons(found, folder)) == [name]


@pytest.mark.parametrize("data", [b"", b"\xff" * 12, b"\xff" * 9000], ids=len)
def test_a_format_that_is_asked_for_takes_files_whose_beginning_is_damaged(tmp_path, data):
    good = helpers.write_tfrecord(tmp_path / "in" / "part-0", [helpers.image_example(0)])
    put(tmp_path / "in" / "part-1", data + good.read_bytes()[len(data) :])
    found = find(tmp_path / "in", input_format="tfrecord")
    assert names(found, tmp_path / "in") == ["part-0", "part-1"]
    assert not found.left_out


def test_a_bzipped_file_of_records_is_read(tmp_path):
    plain = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(i) for i in range(3)])
    put(tmp_path / "in.tfrecord.bz2", bz2.compress(plain.read_bytes()))
    helpers.job(f"--input={tmp_path}/in.tfrecord.bz2", output=tmp_path / "out")
    assert len(helpers.read_all(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    "name", ["line\nbreak.jpg", " blanks .jpg ", "blank at the end ", "cr\r.jpg\r", "\xa0.jpg\xa0"]
)
def test_names_that_a_line_cannot_hold_are_one_input_each(folder, tmp_path, name):
    put(folder / name, helpers.encoded(1))
    helpers.job(f"--input={folder}", output=tmp_path / "out")
    assert helpers.read_ledger(tmp_path / "out") == []
    keys = [urllib.parse.unquote(one["key"][0].decode()) for one in helpers.read_all(tmp_path / "out")]
    assert sorted(os.path.basename(key) for key in keys) == sorted(["a.jpg", name])
    assert verify.main([str(tmp_path / "out")]) == 0


# links


def test_links_are_followed_and_each_target_is_taken_once(folder, tmp_path):
    put(tmp_path / "elsewhere" / "b.jpg", helpers.encoded(1))
    put(tmp_path / "elsewhere" / "c.jpg", helpers.encoded(2))
    (folder / "album").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (folder / "0.jpg").symlink_to("a.jpg")
    (folder / "loop").symlink_to(".")
    inputs = find(folder)
    targets = [os.path.realpath(file.path) for file in inputs.files]
    assert sorted(targets) == sorted(
        [str(folder / "a.jpg"), f"{tmp_path}/elsewhere/b.jpg", f"{tmp_path}/elsewhere/c.jpg"]
    )
    assert "a.jpg" in names(inputs, folder), "its own name comes before a link's"
    assert set(reasons(inputs, folder).values()) == {left_out.SECOND_LINK}


def test_a_glob_reaches_through_links_whatever_was_reached_before(tmp_path):
    put(tmp_path / "ds" / "v1" / "1.jpg", helpers.encoded(1))
    put(tmp_path / "ds" / "b" / "latest" / "2.jpg", helpers.encoded(2))
    (tmp_path / "ds" / "latest").symlink_to("v1")
    (tmp_path / "ds" / "loop").symlink_to(".")
    found = find(f"{tmp_path}/ds/**latest/*.jpg")
    assert [os.path.realpath(file.path) for file in found.files] == [
        f"{tmp_path}/ds/b/latest/2.jpg",
        f"{tmp_path}/ds/v1/1.jpg",
    ]


@pytest.mark.parametrize("target", ["nowhere.jpg", "b.jpg", "/none/at/all.jpg"])
def test_a_link_to_nothing_ends_the_run(folder, target):
    (folder / "b.jpg").symlink_to(target)
    for pattern in (folder, f"{folder}/*.jpg", f"{folder}/**"):
        with pytest.raises(BadInput, match=r"in/b\.jpg is a broken link"):
            find(pattern)
    assert names(find(f"{folder}/a*"), folder) == ["a.jpg"]


# rights

PROGRAM = """
import json, sys
from transforms.sources import finding
from transforms.sources.base import BadInput, ReadSettings
for pattern in sys.argv[1:]:
    try:
        print(json.dumps(sorted(file.path for file in finding.find([pattern], "auto", ReadSettings(2)).files)))
    except BadInput as error:
        print(json.dumps(str(error)))
"""


def test_what_cannot_be_listed_or_read_ends_the_run_with_its_path(folder):
    put(folder / "private" / "b.jpg", helpers.encoded(1))
    put(folder / "c" / "secret.jpg", helpers.encoded(1))
    put(folder / "d" / "unknown", helpers.encoded(1))
    put(folder / "e" / "seen.jpg", helpers.encoded(1))
    put(folder / "f" / ".trash" / "g.jpg", helpers.encoded(1))
    put(folder / "f" / "h.jpg", helpers.encoded(1))
    modes = {"private": 0o000, "c/secret.jpg": 0o000, "d/unknown": 0o000, "e": 0o444, "f/.trash": 0o000}
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    patterns = [
        f"{folder}/{name}"
        for name in ("", "c", "c/*.jpg", "c/secret.jpg", "d", "e", "f", "a*", "*.jpg", "p*/*")
    ]
    try:
        done = subprocess.run(
            [*helpers.without_roots_rights(), sys.executable, "-c", PROGRAM, *patterns],
            cwd=helpers.REPO,
            capture_output=True,
            text=True,
        )
    finally:
        for name in modes:
            (folder / name).chmod(0o755)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results[0].startswith(str(folder)), "whichever of them it meets first"
    assert all(f"{folder}/c/secret.jpg cannot be read" in message for message in results[1:4])
    assert f"{folder}/d/unknown cannot be read" in results[4]
    assert f"{folder}/e/seen.jpg cannot be inspected (Permission denied)" in results[5]
    assert results[6] == [f"{folder}/f/h.jpg"]
    assert results[7:9] == [[f"{folder}/a.jpg"]] * 2
    assert f"{folder}/private cannot be listed (Permission denied)" in results[9]


def test_a_job_says_what_it_left_out_and_lists_it_in_its_report(folder, tmp_path, capsys):
    put(folder / "notes.txt", b"text")
    put(folder / "more.txt", b"text")
    put(folder / ".hidden", b"text")
    report = tmp_path / "report.json"
    helpers.job(f"--input={folder}", f"--report_file={report}", output=tmp_path / "out")
    said = capsys.readouterr().err
    assert f"left out 3 files: 2 .txt ({folder}/more.txt), 1 hidden ({folder}/.hidden)\n" in said
    expected = {f"{folder}/notes.txt": ".txt", f"{folder}/more.txt": ".txt", f"{folder}/.hidden": "hidden"}
    assert json.loads(report.read_text())["left_out"] == expected
    helpers.job(f"--input={folder}", output=tmp_path / "out")
    assert "1 hidden" in capsys.readouterr().err


def test_a_job_on_a_folder_that_cannot_be_listed_starts_nothing(folder, tmp_path):
    put(folder / "private" / "b.jpg", helpers.encoded(1))
    (folder / "private").chmod(0)
    command = [
        sys.executable,
        "-m",
        "pipeline.main",
        *helpers.TINY,
        f"--input={folder}",
        f"--output={tmp_path}/out",
    ]
    try:
        done = subprocess.run(
            [*helpers.without_roots_rights(), *command], cwd=helpers.REPO, capture_output=True, text=True
        )
    finally:
        (folder / "private").chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"error: {folder}/private cannot be listed (Permission denied)" in done.stderr
    assert not (tmp_path / "out").exists()


# outputs of earlier versions


@pytest.fixture
def begun(folder, tmp_path, monkeypatch):
    """An output of a folder as an earlier version wrote it; then the folder gets more files: (flags, output)."""
    put(folder / "b.jpg", helpers.encoded(1))
    put(folder / ".c.jpg", helpers.encoded(2))
    flags = [f"--input={folder}", "--images_per_shard=1"]
    with monkeypatch.context() as patched:
        patched.setattr(finding, "find", earlier.find)
        helpers.job(*flags, output=tmp_path / "out")
    for name in ("d.jfif", "e", "f.JPG_large"):
        os.utime(put(folder / name, helpers.encoded(3)), (1e9, 1e9))
    return flags, tmp_path / "out"


def test_an_output_of_an_earlier_version_goes_on_with_what_that_took(begun, capsys):
    flags, output = begun
    before = helpers.contents(output)
    assert len(helpers.read_all(output)) == 3
    capsys.readouterr()
    helpers.job(*flags, output=output)
    said = capsys.readouterr().err
    assert (
        "was started by an earlier version and continues with the files of that run, without 3 more" in said
    )
    assert "d.jfif" in said
    assert helpers.contents(output) == before
    (output / "receipts" / "00001-of-00003.json").unlink()
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == before


def test_pictures_that_came_later_are_a_change_of_the_input(begun, folder, capsys):
    flags, output = begun
    put(folder / "new.jfif", helpers.encoded(4))
    helpers.job(*flags, output=output, expect=2)
    said = capsys.readouterr().err
    assert (
        f"the input now has 6 shards (1 file gone, such as {folder}/.c.jpg, 4 files new, such as {folder}/"
        in said
    )


def test_a_folder_with_other_files_is_refused_by_their_names(folder, tmp_path, capsys):
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        put(folder / name, helpers.encoded(1))
    flags, output = (f"--input={folder}", "--images_per_shard=9"), tmp_path / "out"
    helpers.job(*flags, output=output)
    (folder / "c.jpg").unlink()
    put(folder / "e.jpg", helpers.encoded(2))
    capsys.readouterr()
    helpers.job(*flags, output=output, expect=2)
    line = capsys.readouterr().err
    assert (
        f"inputs.txt (1 file gone, such as {folder}/c.jpg, 1 file new, such as {folder}/e.jpg): use another"
        in line
    )


def test_a_new_output_or_overwrite_takes_all(begun, tmp_path):
    flags, output = begun
    helpers.job(*flags, output=tmp_path / "new")
    assert len(helpers.read_all(tmp_path / "new")) == 5
    helpers.job(*flags, "--overwrite", output=output)
    assert len(helpers.read_all(output)) == 5


def test_another_difference_is_refused_as_ever(begun, folder, capsys):
    flags, output = begun
    helpers.job(*flags, "--exif_orientation=apply", output=output, expect=2)
    assert "preprocessing.exif_orientation" in capsys.readouterr().err
    (folder / "a.jpg").unlink()
    helpers.job(*flags, output=output, expect=2)
    assert "the input now has" in capsys.readouterr().err


def test_an_output_that_was_begun_and_has_no_receipt_yet_goes_on_too(begun, capsys):
    flags, output = begun
    kept = helpers.contents(output)
    note = {"request": json.loads(kept["receipts/00000-of-00003.json"])["fingerprint"], "shards": 3}
    listing = kept["inputs.txt"]
    shutil.rmtree(output)
    note["list of images"] = hashlib.sha256(listing).hexdigest()
    put(output / ".tmp" / "request.json", json.dumps(note).encode())
    helpers.job(*flags, output=output)
    assert "without 3 more" in capsys.readouterr().err
    assert helpers.contents(output)["inputs.txt"] == listing
