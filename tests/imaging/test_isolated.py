"""Pictures that crash or hang a decoder lose themselves, not the job: a fake format whose decoder does so."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pipeline import verify
from tests import helpers
from tests.imaging.samples import AS_TENSORFLOW, REFUSED
from transforms import decode as decode_images
from transforms.elements import Encoded, EncodedChunk, Shard
from transforms.errors import ItemError
from transforms.imaging import isolated, preprocess
from transforms.imaging.preprocess import Preprocessing, decode
from transforms.sources.tfrecord import RecordFile

ENVIRONMENT = {"PYTHONPATH": f"{helpers.REPO / 'tests' / 'killer'}{os.pathsep}{helpers.REPO}"}
SIDE = 48
SETTINGS = Preprocessing(image_size=SIDE, exif_orientation="apply")


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    isolated.end_idle()


def write_input(folder, lethal: dict[int, bytes], size: int = 10, shards: int = 3) -> list[str]:
    """Shards of good pictures, except for the lethal ones, by number over all shards; returns the job's flags."""
    for shard in range(shards):
        numbers = range(shard * size, (shard + 1) * size)
        examples = [helpers.example({"image/encoded": lethal.get(n) or helpers.encoded(n)}) for n in numbers]
        helpers.write_tfrecord(folder / f"in-{shard}.tfrecord", examples)
    return [*helpers.TINY, f"--input={folder}", "--batch_size=2", "--decode_threads=2"]


def run(flags, output, expect):
    return helpers.job_process(*flags, f"--output={output}", env=ENVIRONMENT, expect=expect)


def check(output, tmp_path, codes: dict[int, str], size: int = 10, shards: int = 3) -> None:
    """The ledger holds these codes, and the features are those of a job with merely bad pictures in their places."""
    places = {f"{line['key']}": line["code"] for line in helpers.read_ledger(output)}
    assert places == {f"in-{n // size}.tfrecord#{n % size}": code for n, code in codes.items()}
    flags = write_input(tmp_path / "harmless", dict.fromkeys(codes, b"no image"), size, shards)
    helpers.job(*flags[2:], output=tmp_path / "expected")
    features = {path.name: path.read_bytes() for path in sorted(output.glob("features-*"))}
    expected = {p.name: p.read_bytes() for p in sorted((tmp_path / "expected").glob("features-*"))}
    assert len(features) == shards
    assert features == expected
    assert verify.main([str(output)]) == verify.COMPLETE
    assert not (output / ".tmp").exists()


def test_a_picture_that_crashes_the_job_costs_one_attempt_and_then_itself(tmp_path):
    lethal = {1: b"LETHALabort", 12: b"LETHALwild pointer", 13: b"LETHALabort"}
    flags = write_input(tmp_path / "in", lethal)
    first = run(flags, tmp_path / "out", None)
    assert first.returncode == -signal.SIGABRT, first.stderr
    second = run(flags, tmp_path / "out", 0)
    assert "in-0.tfrecord#1: decoder_crash" in second.stderr
    assert "Traceback" not in second.stderr
    check(tmp_path / "out", tmp_path, dict.fromkeys(lethal, "decoder_crash"))
    messages = [line["message"] for line in helpers.read_ledger(tmp_path / "out")]
    assert [m.split("(")[1].split(")")[0] for m in messages] == ["SIGABRT", "SIGSEGV", "SIGABRT"]
    before = helpers.contents(tmp_path / "out")
    run([*flags, "--retry_failures"], tmp_path / "out", 0)
    assert helpers.contents(tmp_path / "out") == before


def test_a_picture_that_hangs_costs_its_time_limit(tmp_path):
    lethal = {3: b"LETHALsleep in C", 4: b"LETHALsleep in C", 5: b"LETHALnap", 25: b"LETHALsleep in C"}
    flags = write_input(tmp_path / "in", lethal)
    done = run([*flags, "--decode_timeout=2"], tmp_path / "out", 0)
    assert "in-0.tfrecord#3: decoding takes longer than 2 s" in done.stderr
    check(tmp_path / "out", tmp_path, dict.fromkeys(lethal, "decode_timeout"))


def test_a_shard_begun_before_is_decoded_apart_with_the_same_bytes(tmp_path):
    flags = write_input(tmp_path / "in", {4: b"no image"})
    helpers.job(*flags[2:], output=tmp_path / "expected")
    (tmp_path / "out" / ".tmp").mkdir(parents=True)
    (tmp_path / "out" / ".tmp" / "00000-of-00003-begun").touch()
    started = []
    before, isolated.decode = isolated.decode, lambda *a: started.append(1) or before(*a)
    try:
        helpers.job(*flags[2:], output=tmp_path / "out")
    finally:
        isolated.decode = before
    assert len(started) == 10
    assert helpers.contents(tmp_path / "out") == helpers.contents(tmp_path / "expected")


def test_pixels_sizes_and_refusals_are_those_of_decoding_here():
    here, there = np.empty((2, SIDE, SIDE, 3), np.float32)
    for data in AS_TENSORFLOW.values():
        assert isolated.decode(data, SETTINGS, 600.0, there) == decode(data, SETTINGS, here)
        np.testing.assert_array_equal(there, here)
    for data, _ in REFUSED.values():
        with pytest.raises(ItemError) as expected:
            decode(data, SETTINGS, here)
        with pytest.raises(ItemError) as caught:
            isolated.decode(data, SETTINGS, 600.0, there)
        assert (caught.value.code, str(caught.value)) == (expected.value.code, str(expected.value))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("abort", "decoder_crash"),
        ("wild pointer", "decoder_crash"),
        ("killed", "decoder_crash"),
        ("sleep in C", "decode_timeout"),
    ],
)
def test_what_is_lethal_is_refused_and_the_next_picture_decoded(monkeypatch, how, code):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    pixels = np.empty((SIDE, SIDE, 3), np.float32)
    with pytest.raises(ItemError) as caught:
        isolated.decode(b"LETHAL" + how.encode(), SETTINGS, 5.0, pixels)
    assert caught.value.code == code
    assert isolated.decode(helpers.encoded(1), SETTINGS, 600.0, pixels) == (48, 40)


def test_a_process_that_was_killed_while_idle_costs_nothing():
    pixels = np.empty((SIDE, SIDE, 3), np.float32)
    isolated.decode(helpers.encoded(1), SETTINGS, 600.0, pixels)
    (worker,) = isolated._idle
    worker._process.kill()
    worker._process.wait()
    assert isolated.decode(helpers.encoded(1), SETTINGS, 600.0, pixels) == (48, 40)


def test_where_no_process_starts_no_picture_is_blamed(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(isolated.CannotIsolate, match=r"does not start \(/bin/false, exit code 1\)"):
        isolated.decode(helpers.encoded(1), SETTINGS, 600.0, np.empty((SIDE, SIDE, 3), np.float32))


def test_decoding_processes_do_not_outlive_the_job(tmp_path):
    program = (
        "import json, os, signal, numpy as np\n"
        "from transforms.imaging.preprocess import Preprocessing\n"
        "from transforms.imaging import isolated\n"
        f"data = open({str(tmp_path / 'a.jpg')!r}, 'rb').read()\n"
        f"isolated.decode(data, Preprocessing(image_size=8), 60.0, np.empty((8, 8, 3), np.float32))\n"
        "print(json.dumps(isolated._idle[0]._process.pid), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "a.jpg").write_bytes(helpers.encoded(1))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=helpers.REPO, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == -signal.SIGKILL
    pid, deadline = json.loads(done.stdout), time.monotonic() + 60
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def test_decoding_processes_import_neither_beam_nor_tensorflow():
    program = "import sys, transforms.imaging.worker as w; print([n for n in ('apache_beam', 'tensorflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_threads_that_hang_cost_their_pictures_and_no_other(monkeypatch):
    """More pictures than threads: those that no thread reached are decoded in other processes, each picture once."""
    monkeypatch.setattr(decode_images, "_distrusted", threading.Event())
    monkeypatch.setattr(decode_images, "_POOLS", {})
    datas = [helpers.encoded(seed) for seed in range(9)]
    hung, go_on = {datas[2], datas[5]}, threading.Event()
    here = preprocess.decode

    def decode_or_hang(data, preprocessing, out):
        if data in hung:
            go_on.wait(60)
            out[:] = -1  # too late: nobody reads this array any more
        return here(data, preprocessing, out)

    monkeypatch.setattr(preprocess, "decode", decode_or_hang)
    settings = decode_images.DecodeSettings(SETTINGS, batch_size=9, threads=2, timeout_seconds=2.0)
    shard = Shard(0, 1, RecordFile("in", 1, 0.0), "in")
    items = tuple(Encoded(b"%d" % row, row, data) for row, data in enumerate(datas))
    chunk = decode_images.submit(EncodedChunk(shard, 0, True, items), settings).result()
    go_on.set()
    expected = np.empty((SIDE, SIDE, 3), np.float32)
    assert [item.position for item in chunk.items] == list(range(9))
    for item, data in zip(chunk.items, datas, strict=True):
        here(data, SETTINGS, expected)
        np.testing.assert_array_equal(chunk.pixels[item.row], expected)
