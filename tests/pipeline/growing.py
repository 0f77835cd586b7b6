"""Inputs that grow: each function writes what is new from a first to a last seed, and returns the flags of a job on all of it."""

import gzip
import io
import json
import os
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

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


def one_tar(path, seed, modified=1e9):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(f"{seed}.jpg")
        member.size = len(picture(seed))
        archive.addfile(member, io.BytesIO(picture(seed)))
    os.utime(path, (modified, modified))


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


def vectors(*outputs):
    """Key -> embedding of all records of some outputs, in which no key comes twice."""
    records = [record for output in outputs for record in helpers.read_all(output)]
    out = {record["key"][0]: record["embedding"].tobytes() for record in records}
    assert len(out) == len(records)
    return out


def failed(*outputs):
    return [line["key"] for output in outputs for line in helpers.read_ledger(output)]


def undisturbed(output):
    return {name: data for name, data in helpers.contents(output).items() if name != "request.json"}


def begun(*flags, output, monkeypatch):
    """A start that is killed before its first commit."""
    from pipeline import run

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            main([*helpers.TINY, *flags, f"--output={output}"])
