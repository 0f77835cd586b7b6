"""A dry run looks at a bounded sample, says what the job would take, and writes nothing."""

import gzip
import io
import json
import re
import tarfile
import tempfile

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.dry_run import measure, sample
from pipeline.main import main
from tests import helpers


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short measurements: their precision does not matter here."""
    monkeypatch.setattr(sample, "_DECODE_SECONDS", 0.01)
    monkeypatch.setattr(measure, "_MODEL_SECONDS", 0.01)


def dry_run(capsys, *flags, output):
    helpers.job(*flags, "--dry_run", output=output)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not output.exists()
    lines = [
        line for line in captured.err.splitlines() if line.startswith("dry run") or line[:10].strip() in NAMES
    ]
    return {line[:10].strip(): line[10:] for line in lines[1:]} | {"dry run": lines[0]}


NAMES = ("formats", "sizes", "failures", "rates", "time", "disk", "cost")


def test_what_it_finds_in_tfrecords(tmp_path, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (20, 20, 20))
    bad = [helpers.example({"image/encoded": b"bad"})] * 5
    helpers.write_tfrecord(tmp_path / "in" / "in-zz.tfrecord", [*bad, helpers.image_example(1)])
    lines = dry_run(capsys, f"--input={tmp_path}/in/in-*", "--price_per_hour=3600", output=tmp_path / "out")
    assert pattern
    assert lines["dry run"].startswith(
        "dry run: 54 of about "
    )  # 16 of each of the first three, 6 of the last
    assert lines["dry run"].endswith(" images, in 4 of 4 shards")
    assert lines["formats"] == "JPEG 49"
    assert lines["sizes"].startswith("48x40 and ")
    assert lines["failures"] == "5 of 54 (not_image: 5)"
    assert all(word in lines["rates"] for word in ("input ", "decode ", "model ", "write ", "commit "))
    assert re.fullmatch(
        r".* if the stages overlap \(range: \w+ to \w+\), without loading the model", lines["time"]
    )
    cost, low, high = map(float, re.fullmatch(r"(.*) \(range: (.*) to (.*)\)", lines["cost"]).groups())
    assert 0 < low <= cost < high


def test_what_it_finds_in_a_folder_and_a_report(tmp_path, capsys):
    for seed, kind in enumerate(("JPEG", "PNG", "BMP", "PNG")):
        path = tmp_path / "photos" / f"{seed}.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(helpers.encoded(seed, kind))
    report = tmp_path / "report.json"
    flags = (f"--input={tmp_path}/photos", "--images_per_shard=2", f"--report_file={report}")
    lines = dry_run(capsys, *flags, output=tmp_path / "out")
    assert lines["dry run"] == "dry run: 4 of 4 images, in 2 of 2 shards"
    assert lines["formats"] == "PNG 2, JPEG 1, BMP 1"
    assert "cost" not in lines
    assert json.loads(report.read_text())["status"] == "dry_run"


def test_nothing_that_can_be_decoded(tmp_path, capsys):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.example({"image/encoded": b"bad"})] * 3)
    lines = dry_run(capsys, f"--input={path}", output=tmp_path / "out")
    assert lines["dry run"] == "dry run: none of 3 images in 1 shard could be decoded (not_image: 3)"


def test_the_sample_is_bounded_and_spread_over_the_shards(tmp_path, monkeypatch):
    pattern = helpers.write_shards(tmp_path / "in", (20,) * 20)
    sampled = []
    original = sample.Sampler.sample

    def recorded(self, shard, represented_units):
        images, cost = original(self, shard, represented_units)
        sampled.append((shard.index, len(images)))
        return images, cost

    monkeypatch.setattr(sample.Sampler, "sample", recorded)
    helpers.job(f"--input={pattern}", "--dry_run", output=tmp_path / "out")
    assert sampled == [(index, 16) for index in (1, 3, 6, 8, 11, 13, 16, 18)]


def test_no_more_rows_of_a_list_are_fetched_than_are_sampled(tmp_path, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(sample.Fetcher, "fetch", lambda self, uri: fetched.append(uri) or helpers.encoded(1))
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"/nowhere/{index}.jpg\n" for index in range(200)))
    flags = (f"--input={listing}", "--images_per_shard=100")
    lines = dry_run(capsys, *flags, output=tmp_path / "out")
    assert lines["dry run"] == "dry run: 32 of 200 images, in 2 of 2 shards"
    rows = [int(uri.split("/")[-1].split(".")[0]) for uri in sorted(fetched)]
    assert len(rows) == 32
    expected = [first + index * 99 // 15 for first in (0, 100) for index in range(16)]  # not only the head
    assert sorted(rows) == expected


def test_rows_of_parquet_are_spread_over_the_shard_too(tmp_path, capsys):
    """The first half cannot be decoded."""
    rows = [{"bytes": b"no image" if row < 50 else helpers.encoded(row), "path": ""} for row in range(100)]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "in.parquet")
    lines = dry_run(capsys, f"--input={tmp_path}/in.parquet", output=tmp_path / "out")
    assert lines["dry run"] == "dry run: 16 of 100 images, in 1 of 1 shard"
    assert lines["failures"] == "8 of 16 (not_image: 8)"


def test_records_are_spread_over_the_file(tmp_path, monkeypatch, capsys):
    """The second half cannot be decoded."""
    monkeypatch.setattr(sample, "_SPREAD_BYTES", 1000)
    good = [helpers.image_example(seed) for seed in range(60)]
    bad = [helpers.example({"image/encoded": b"no image" * 100})] * 60
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", good + bad)
    lines = dry_run(capsys, f"--input={path}", output=tmp_path / "out")
    assert re.fullmatch(r"dry run: 16 of about \d+ images, in 1 of 1 shard", lines["dry run"])
    failed, count = re.match(r"(\d+) of (\d+) ", lines["failures"]).groups()
    assert (4 <= int(failed) <= 12, count) == (True, "16")


@pytest.mark.parametrize("kind", ["small", "compressed", "tar", "compressed tar"])
def test_files_that_are_read_whole_are_not_judged_by_their_start(tmp_path, capsys, kind):
    """The second half cannot be decoded."""
    pictures = [helpers.encoded(seed) if seed < 50 else b"no image" for seed in range(100)]
    path, mode = tmp_path / ("in.tar" if "tar" in kind else "in.tfrecord"), "w:gz" if "comp" in kind else "w"
    if "tar" in kind:
        with tarfile.open(path, mode) as tar:
            for index, data in enumerate(pictures):
                member = tarfile.TarInfo(f"{index:03}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        helpers.write_tfrecord(path, [helpers.example({"image/encoded": data}) for data in pictures])
        if kind == "compressed":
            path.write_bytes(gzip.compress(path.read_bytes()))
    lines = dry_run(capsys, f"--input={path}", output=tmp_path / "out")
    assert re.fullmatch(r"dry run: 16 of (about )?\d+ images, in 1 of 1 shard", lines["dry run"])
    failed, count = re.match(r"(\d+) of (\d+) ", lines["failures"]).groups()
    assert (6 <= int(failed) <= 10, count) == (True, "16")


def test_it_says_what_is_done_already_and_how_far_it_is(tmp_path, capsys):
    for seed in range(6):
        (tmp_path / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    flags, output = (f"--input={tmp_path}/*.jpg", "--images_per_shard=2"), tmp_path / "out"
    helpers.job(*flags, output=output)
    (output / "receipts" / "00001-of-00003.json").unlink()
    capsys.readouterr()
    helpers.job(*flags, "--dry_run", output=output)
    said = capsys.readouterr().err.splitlines()
    assert "dry run: 2 of 2 images, in 1 of 1 shard" in said
    assert "done      2 of 3 shards, with 4 images: the estimate is of the others" in said
    assert said[:2] == ["sampling shard 1 of 1", "loading and measuring the model"]
    helpers.job(*flags, output=output)
    capsys.readouterr()
    helpers.job(*flags, "--dry_run", output=output)
    said = capsys.readouterr().err.splitlines()
    assert "dry run: 6 of 6 images, in 3 of 3 shards" in said
    assert any(
        line.startswith("done      all of 3 shards, with 6 images: there is nothing to do") for line in said
    )


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(tmp_path, monkeypatch, fails):
    """The list of a folder's files and the shards that are written to see what that costs are temporary."""
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        (tmp_path / "photos" / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = helpers.contents(tmp_path / "photos")
    scratch_files = []

    def at(*arguments):
        scratch_files.extend(scratch.iterdir())
        if fails:
            raise OSError("the disk is gone")
        return original(*arguments)

    original = sample.Sampler.sample
    monkeypatch.setattr(sample.Sampler, "sample", at)
    flags = (f"--input={tmp_path}/photos", "--dry_run")
    helpers.job(*flags, output=tmp_path / "out", expect=1 if fails else 0)
    assert len(scratch_files) == 1
    assert not list(scratch.iterdir())
    assert helpers.contents(tmp_path / "photos") == before
    assert not (tmp_path / "out").exists()


def test_an_output_is_optional(tmp_path, monkeypatch, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (5, 4))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    for place in (pattern, str(tmp_path / "in")):
        assert main([*helpers.TINY, "--dry_run", f"--input={place}"]) == 0
        assert "dry run: 9 of about 9 images, in 2 of 2 shards" in capsys.readouterr().err
    assert main([*helpers.TINY, f"--input={pattern}"]) == 2
    assert "missing --output;" in capsys.readouterr().err
    assert main(["--dry_run"]) == 2
    assert "missing --input and --model;" in capsys.readouterr().err
    assert not list((tmp_path / "scratch").iterdir())
    assert not list((tmp_path / "cwd").iterdir())
