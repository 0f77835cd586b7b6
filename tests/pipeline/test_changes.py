"""An input that has changed since its output was begun is refused by what has changed, with the shortest way on."""

import io
import json
import os
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from tests import helpers
from transforms.commit.layout import Layout

ONLY_NEW = "--skip_done={} with another --output does only the new {}; --overwrite does all again"
OTHERWISE = "use another --output, or --overwrite to start again"


def write_list(path, names):
    kind = path.suffix[1:]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"uri": names}), path)
        return
    lines = [json.dumps({"uri": name}) for name in names] if kind == "jsonl" else names
    path.write_text("".join(f"{line}\n" for line in (["uri"] if kind in ("csv", "tsv") else []) + lines))


@pytest.fixture
def names(tmp_path):
    for seed in range(3):
        (tmp_path / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    return [f"{tmp_path}/{seed % 3}.jpg" for seed in range(6)]


def refused(capsys, *flags, output):
    capsys.readouterr()
    helpers.job(*flags, output=output, expect=2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("kind", "size"),
    [("txt", ["--images_per_shard=2"]), ("csv", []), ("jsonl", ["--images_per_shard=2"]), ("parquet", [])],
)
def test_rows_of_lists(tmp_path, capsys, names, kind, size):
    path, output = tmp_path / f"list.{kind}", tmp_path / "out"
    write_list(path, names)
    flags = (f"--input={path}", *size)
    helpers.job(*flags, output=output)
    write_list(path, [*names, names[0]])
    line = refused(capsys, *flags, output=output)
    remedy = ONLY_NEW.format(output, "files and rows")
    assert f"has grown since it was begun (further rows in 1 list, such as {path}): {remedy}" in line
    assert "images_per_shard" not in line
    write_list(path, names[:5])
    line = refused(capsys, *flags, output=output)
    assert f"5 rows, where there were 6): {OTHERWISE}" in line
    write_list(path, [names[1], *names[1:]])
    line = refused(capsys, *flags, output=output)
    assert line.endswith(f"has changed since the shard was made: {path} (its rows are others): {OTHERWISE}")
    (output / "receipts" / f"{'00001-of-00003' if size else '00000-of-00001'}.json").unlink()
    write_list(path, names)
    helpers.job(*flags, output=output)


def test_a_command_that_names_only_the_output_sets_no_size(tmp_path, capsys, names):
    path, output = tmp_path / "list.txt", tmp_path / "out"
    write_list(path, names)
    helpers.job(f"--input={path}", output=output)
    write_list(path, [*names[:5], names[0]])
    from pipeline.main import main

    capsys.readouterr()
    assert main([f"--output={output}"]) == 2
    line = capsys.readouterr().err
    assert "(its rows are others): use another" in line
    assert "images_per_shard" not in line


def test_another_size_of_shards_is_what_differs(tmp_path, capsys, names):
    path, output = tmp_path / "list.txt", tmp_path / "out"
    write_list(path, names)
    helpers.job(f"--input={path}", "--images_per_shard=2", output=output)
    line = refused(capsys, f"--input={path}", "--images_per_shard=3", output=output)
    assert f"leave out --images_per_shard=3, as the output was begun with 2; else {OTHERWISE}" in line
    os.unlink(Layout(str(output)).request)
    line = refused(capsys, f"--input={path}", "--images_per_shard=3", output=output)
    assert f"leave out --images_per_shard=3 if the output was begun with another; else {OTHERWISE}" in line
    write_list(path, [names[1], *names[1:]])
    line = refused(capsys, f"--input={path}", "--images_per_shard=2", output=output)
    assert f"(its rows are others): {OTHERWISE}" in line


def write_tar(path, seed):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(f"{seed}.jpg")
        data = helpers.encoded(seed)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def write_parquet(path, seed):
    rows = [{"bytes": helpers.encoded(seed), "path": ""}]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), path)


WRITERS = {
    "tfrecord": lambda path, seed: helpers.write_tfrecord(path, [helpers.image_example(seed)]),
    "tar": write_tar,
    "parquet": write_parquet,
    "jpg": lambda path, seed: path.write_bytes(helpers.encoded(seed)),
    "txt": lambda path, seed: path.write_text(f"{path.parent.parent}/{seed}.jpg\n"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_files(tmp_path, capsys, names, kind):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for seed in range(2):
        WRITERS[kind](folder / f"{seed}.{kind}", seed)
    flags = (f"--input={folder}/*.{kind}", "--images_per_shard=1")[: 1 if kind in ("tfrecord", "tar") else 2]
    helpers.job(*flags, output=output)
    WRITERS[kind](folder / f"2.{kind}", 2)
    line = refused(capsys, *flags, output=output)
    assert "has grown since it was begun (1 new file, such as " in line
    assert f"2.{kind}): " + ONLY_NEW.format(output, "files and rows") in line
    (folder / f"0.{kind}").unlink()
    line = refused(capsys, *flags, output=output)
    assert "(1 file gone, such as " in line
    assert f"0.{kind}, 1 file new, such as " in line
    assert line.endswith(OTHERWISE)


@pytest.mark.parametrize("kind", ["tar", "txt"])
def test_what_is_new_since_an_output_of_an_earlier_version(tmp_path, capsys, names, kind):
    """Which lists no files: they are told from its receipts."""
    (tmp_path / "in").mkdir()
    WRITERS[kind](tmp_path / "in" / f"0.{kind}", 0)
    flags, output = (f"--input={tmp_path}/in/*.{kind}",), tmp_path / "out"
    helpers.job(*flags, output=output)
    (output / "input_files.txt").unlink()
    WRITERS[kind](tmp_path / "in" / f"1.{kind}", 1)
    line = refused(capsys, *flags, output=output)
    assert f"(1 file new, such as 1.{kind}): {ONLY_NEW.format(output, 'files')}" in line
    WRITERS["txt"](tmp_path / "in" / "2.txt", 0)
    helpers.job(f"--input={tmp_path}/in/2.txt", output=tmp_path / "rows")
    (tmp_path / "rows" / "input_files.txt").unlink()
    (tmp_path / "in" / "2.txt").write_text("".join(f"{name}\n" for name in names))
    line = refused(capsys, f"--input={tmp_path}/in/2.txt", output=tmp_path / "rows")
    assert "6 rows, where there were 1" in line
    assert ONLY_NEW.format(tmp_path / "rows", "rows, if they are at its end") in line
