"""A dry run looks at a bounded sample, says what the job would take, and writes nothing."""

import json

import pytest

from pipeline import dry_run
from tests import helpers


def told(capsys, *flags, output):
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
    found = told(capsys, f"--input={tmp_path}/in/in-*", "--price_per_hour=3600", output=tmp_path / "out")
    assert pattern
    assert found["dry run"].startswith(
        "dry run: 54 of about "
    )  # 16 of each of the first three, 6 of the last
    assert found["dry run"].endswith(" images, in 4 of 4 shards")
    assert found["formats"] == "JPEG 49"
    assert found["sizes"].startswith("48x40 and ")
    assert found["failures"] == "5 of 54 (not_image: 5)"
    assert all(word in found["rates"] for word in ("input ", "decode ", "model ", "write "))
    assert "95 %" in found["time"]
    assert "95 %" in found["cost"]


def test_what_it_finds_in_a_folder_and_a_report(tmp_path, capsys):
    for seed, kind in enumerate(("JPEG", "PNG", "BMP", "PNG")):
        path = tmp_path / "photos" / f"{seed}.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(helpers.encoded(seed, kind))
    report = tmp_path / "report.json"
    flags = (f"--input={tmp_path}/photos", "--images_per_shard=2", f"--report_file={report}")
    found = told(capsys, *flags, output=tmp_path / "out")
    assert found["dry run"] == "dry run: 4 of about 4 images, in 2 of 2 shards"
    assert found["formats"] == "PNG 2, JPEG 1, BMP 1"
    assert "cost" not in found
    assert json.loads(report.read_text())["status"] == "dry_run"


def test_nothing_that_can_be_decoded(tmp_path, capsys):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.example({"image/encoded": b"bad"})] * 3)
    found = told(capsys, f"--input={path}", output=tmp_path / "out")
    assert found["dry run"] == "dry run: none of 3 images in 1 shards could be decoded (not_image: 3)"


@pytest.mark.parametrize(
    ("seconds", "threads", "expected"),
    [((1, 0, 10, 2), 1, 10), ((1, 40, 10, 2), 2, 20), ((30, 20, 10, 2), 2, 30), ((1, 2, 3, 4), 2, 4)],
)
def test_the_slowest_stage_sets_the_time(seconds, threads, expected):
    assert dry_run.image_seconds(*seconds, threads) == expected
