"""A dry run looks at a bounded sample, says what the job would take, and writes nothing."""

import json
import re
import tempfile

import pytest

from pipeline.dry_run import measure, sample
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
    assert lines["dry run"] == "dry run: 4 of about 4 images, in 2 of 2 shards"
    assert lines["formats"] == "PNG 2, JPEG 1, BMP 1"
    assert "cost" not in lines
    assert json.loads(report.read_text())["status"] == "dry_run"


def test_nothing_that_can_be_decoded(tmp_path, capsys):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.example({"image/encoded": b"bad"})] * 3)
    lines = dry_run(capsys, f"--input={path}", output=tmp_path / "out")
    assert lines["dry run"] == "dry run: none of 3 images in 1 shards could be decoded (not_image: 3)"


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
    assert lines["dry run"] == "dry run: 32 of about 200 images, in 2 of 2 shards"
    assert len(fetched) == 32


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
