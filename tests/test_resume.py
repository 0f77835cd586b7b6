"""What is committed stays, what is not is done, and a different request on the same folder is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import helpers


@pytest.fixture
def finished(tmp_path):
    """A finished job over three shards: (flags, output)."""
    pattern = helpers.write_shards(tmp_path / "in", (3, 2, 4))
    flags = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*flags, output=tmp_path / "out")
    return flags, tmp_path / "out"


def test_a_second_run_does_nothing(finished, tmp_path, capsys):
    flags, output = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    helpers.job(*flags, f"--report_file={tmp_path / 'report.json'}", output=output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["shards_done_before"], report["features"]) == ("done", 3, 9)


@pytest.mark.parametrize("lost", ["receipt", "features", "both", "short"])
def test_an_unfinished_shard_is_done_again_and_only_that(finished, lost):
    flags, output = finished
    whole = helpers.contents(output)
    others = {p: p.stat().st_mtime_ns for p in output.glob("features-*") if "00001-of" not in p.name}
    if lost in ("receipt", "both"):
        (output / "receipts" / "00001-of-00003.json").unlink()
    if lost in ("features", "both"):
        (output / "features-00001-of-00003.tfrecord").unlink()
    if lost == "short":
        path = output / "features-00001-of-00003.tfrecord"
        path.write_bytes(path.read_bytes()[:-1])
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == whole
    assert {p: p.stat().st_mtime_ns for p in others} == others


def test_a_lost_manifest_is_written_again(finished):
    flags, output = finished
    whole = helpers.contents(output)
    (output / "manifest.json").unlink()
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == whole


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("--image_size=48", "preprocessing.image_size"),
        ("--precision=bfloat16", "precision"),
        ("--pass_through=image/class/label", "schema.pass_through"),
        ("--exif_orientation=apply", "preprocessing.exif_orientation"),
        ("--scaled_decoding", "preprocessing.scaled_decoding"),
        ("--model=untrained/r50x1", "model.weights"),
    ],
)
def test_another_request_on_the_same_folder_is_refused_by_name(finished, capsys, flag, field):
    flags, output = finished
    whole = helpers.contents(output)
    helpers.job(*flags, flag, output=output, expect=2)
    assert field in capsys.readouterr().err
    assert helpers.contents(output) == whole


@pytest.mark.parametrize(("precision", "numerics"), [("bfloat16", 2), ("float32", None)])
def test_what_an_earlier_version_computed_otherwise_is_not_mixed_with(tmp_path, capsys, precision, numerics):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    flags, output = [f"--input={pattern}", f"--precision={precision}"], tmp_path / "out"
    helpers.job(*flags, output=output)
    receipts = sorted(output.glob("receipts/*"))
    contents = [json.loads(path.read_text()) for path in receipts]
    assert [content["fingerprint"].get("numerics") for content in contents] == [numerics] * 2
    receipts[0].unlink()  # half-finished
    contents[1]["fingerprint"].pop("numerics", None)
    receipts[1].write_text(json.dumps(contents[1], indent=1, sort_keys=True) + "\n")
    capsys.readouterr()
    helpers.job(*flags, output=output, expect=2 if numerics else 0)
    message = f"another version of this job, whose --precision={precision} gives other vectors (numerics = 1, here 2)"
    assert (message in " ".join(capsys.readouterr().err.split())) == bool(numerics)


def test_a_changed_input_is_refused_by_name(finished, tmp_path, capsys):
    flags, output = finished
    helpers.write_tfrecord(tmp_path / "in" / "in-00001-of-00003.tfrecord", [helpers.image_example(77)])
    helpers.job(*flags, output=output, expect=2)
    assert "in-00001-of-00003.tfrecord" in capsys.readouterr().err
    helpers.write_tfrecord(tmp_path / "in" / "in-another.tfrecord", [helpers.image_example(77)])
    helpers.job(*flags, output=output, expect=2)
    assert "in-00001-of-00003.tfrecord (size_bytes differs)" in capsys.readouterr().err
    (tmp_path / "in" / "in-00001-of-00003.tfrecord").unlink()
    helpers.job(*flags, output=output, expect=2)
    assert "in-00001-of-00003.tfrecord, 1 file new, such as in-another.tfrecord" in capsys.readouterr().err


def test_overwrite_leaves_what_a_fresh_run_would(finished, tmp_path):
    flags, output = finished
    other = [*flags, "--pass_through=image/class/label", "--batch_size=3"]
    helpers.job(*other, "--overwrite", output=output)
    helpers.job(*other, output=tmp_path / "fresh")
    assert helpers.contents(output) == helpers.contents(tmp_path / "fresh")


def test_too_many_failures_is_exit_code_3_also_on_the_second_run(tmp_path):
    examples = [helpers.image_example(0), *[helpers.example({"image/encoded": b"bad"})] * 2]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", examples)
    helpers.job(f"--input={path}", output=tmp_path / "out", expect=3)
    helpers.job(f"--input={path}", output=tmp_path / "out", expect=3)
    helpers.job(f"--input={path}", "--max_failure_rate=0.7", output=tmp_path / "out", expect=0)
    none = helpers.write_tfrecord(tmp_path / "none.tfrecord", examples[1:])
    helpers.job(f"--input={none}", "--max_failure_rate=1", output=tmp_path / "nothing", expect=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_job_goes_on_where_it_was(tmp_path, number):
    pattern = helpers.write_shards(tmp_path / "in", (40,) * 6)
    flags = [*helpers.TINY, f"--input={pattern}", "--batch_size=1", "--image_size=256"]
    helpers.job(*flags[2:], output=tmp_path / "whole")
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.main", *flags, f"--output={output}"],
        cwd=helpers.REPO,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(output.glob("receipts/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == ""
    committed = {path.name: path.stat().st_mtime_ns for path in output.glob("receipts/*.json")}
    assert 0 < len(committed) < 6
    assert not (output / "manifest.json").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 1
        assert f"stopped by {number.name}" in err
    helpers.job(*flags[2:], output=output)
    assert helpers.contents(output) == helpers.contents(tmp_path / "whole")
    for name, modified in committed.items():
        assert os.stat(output / "receipts" / name).st_mtime_ns == modified
