"""Images that crash or hang a decoder, and processes that are killed, lose themselves and nothing else."""

import gc
import hashlib
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
from tests.feeding.lethal import ENVIRONMENT, costs_itself, write_input
from tests.imaging.samples import AS_TENSORFLOW, REFUSED
from transforms.decode import DecodeImages
from transforms.elements import Decoded, Encoded, Failure, Fields, Record
from transforms.errors import ItemError
from transforms.feeding import crew, feeders, forking, messages
from transforms.feeding.batches import pieces
from transforms.feeding.feeders import Feeders
from transforms.feeding.settings import DecodeSettings
from transforms.imaging import preprocess
from transforms.imaging.preprocess import Preprocessing
from transforms.records import examples, tfrecord

SIDE = 48
SETTINGS = Preprocessing(image_size=SIDE, exif_orientation="apply")


@pytest.fixture
def lethal(monkeypatch):
    """Gives processes that start from here on a format whose decoder does not come back."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def made():
    """Makes feeders, and ends them after the test."""
    all_made: list[Feeders] = []

    def make(batch_size=8, processes=2, seconds=60.0) -> Feeders:
        all_made.append(Feeders(DecodeSettings(SETTINGS, batch_size, processes, seconds)))
        return all_made[-1]

    yield make
    for one in all_made:
        one.close()


def encoded(datas) -> list[Encoded]:
    return [Encoded(b"k%d" % position, position, data) for position, data in enumerate(datas)]


def expected_pixels(data: bytes) -> np.ndarray:
    out = np.empty((SIDE, SIDE, 3), np.float32)
    preprocess.decode(data, SETTINGS, out)
    return out


def processes(feeding: Feeders) -> dict[int, list[int]]:
    """The process that forks, and the feeders it has forked."""
    forking = feeding._crew._forking
    if forking is None:  # it starts just now
        return {}
    parent = forking._process.pid
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return {parent: [int(line) for line in done.stdout.split()]}


def is_running(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def wait_until(condition, seconds=60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# what comes back


def test_pixels_sizes_and_refusals_are_those_of_decoding_here(made):
    good, bad = list(AS_TENSORFLOW.values()), [data for data, _ in REFUSED.values()]
    feeding = made(batch_size=len(good) + len(bad) + 3)
    batch = feeding.submit(encoded([*good, *bad]))
    results = batch.wait()
    here = np.empty((SIDE, SIDE, 3), np.float32)
    for row, data in enumerate(good):
        size = preprocess.decode(data, SETTINGS, here)
        assert results[row] == Decoded(b"k%d" % row, row, row, *size, hashlib.sha256(data).hexdigest())
        np.testing.assert_array_equal(batch.pixels[row], here)
    for row, data in enumerate(bad, len(good)):
        with pytest.raises(ItemError) as refused:
            preprocess.decode(data, SETTINGS, here)
        code, message = refused.value.code, str(refused.value)
        assert results[row] == Failure(b"k%d" % row, row, "decode", code, message)
    assert not batch.pixels[len(good) :].any()


def test_records_are_checked_and_parsed_there(made):
    data = helpers.encoded(1)
    example = helpers.example({"img": data, "id": 7, "label": [1, 2], "other": b"x"})
    right = tfrecord.frame(example)[-4:]
    fields = Fields("img", "id", ("label", "absent"))

    def record(position, body, crc=b"", fields=fields):
        return Record(b"default", position, memoryview(body), crc, fields, "in.tfrecord", 100)

    batch = made().submit(
        [
            record(0, example, right),
            record(1, example),
            record(2, example, b"\1\2\3\4"),
            record(3, b"\xff\xff"),
            record(4, helpers.example({"id": 8})),
            record(5, helpers.example({"img": b"no image", "id": 9})),
        ]
    )
    results = batch.wait()
    passed = examples.select(examples.parse(example), ["label"], {})[0]
    good = Decoded(b"7", 0, 0, 48, 40, hashlib.sha256(data).hexdigest(), passed)
    assert results[0] == good
    assert results[1] == Decoded(b"7", 1, 1, 48, 40, hashlib.sha256(data).hexdigest(), passed)
    np.testing.assert_array_equal(batch.pixels[1], expected_pixels(data))
    size = len(example) + 16
    assert results[2] == Failure(
        b"default", 2, "read", "damaged_record",
        f"wrong data checksum: {size} bytes at offset 100 of in.tfrecord",
    )  # fmt: skip
    assert [(r.key, r.stage, r.code) for r in results[3:]] == [
        (b"default", "read", "bad_example"),
        (b"8", "read", "missing_feature"),
        (b"9", "decode", "not_image"),
    ]
    assert not batch.pixels[2:].any()


def test_other_fields_in_one_batch_are_those_of_each_piece(made):
    """A batch holds records of one source, but images that were fetched may stand between them."""
    example = helpers.example({"a": helpers.encoded(1)})
    images = [*encoded([helpers.encoded(0)]), Record(b"r", 1, example, b"", Fields("a"), "in", 0)]
    assert [type(result) for result in made(processes=1).submit(images).wait()] == [Decoded, Decoded]


def test_large_and_small_images_in_pieces(made):
    datas = [helpers.encoded(seed) for seed in range(40)]
    feeding = made(batch_size=40, processes=3)
    batch = feeding.submit(encoded(datas))
    assert [len(piece.rows) for piece in pieces(batch, 3)] == [14, 14, 12]
    assert [len(piece.rows) for piece in pieces(batch, 1)] == [32, 8]
    for row, data in enumerate(datas):
        assert batch.wait()[row].position == row
        np.testing.assert_array_equal(batch.pixels[row], expected_pixels(data))
    padded = encoded([helpers.encoded(0) + bytes(9 << 20), helpers.encoded(1), helpers.encoded(2)])
    batch = feeding.submit(padded)  # more than an inbox keeps
    assert [len(piece.rows) for piece in pieces(batch, 1)] == [1, 2]
    assert [result.position for result in batch.wait()] == [0, 1, 2]
    np.testing.assert_array_equal(batch.pixels[2], expected_pixels(helpers.encoded(2)))


def test_a_batch_is_used_again_only_when_nothing_refers_to_it(made):
    feeding = made(batch_size=2)

    def decoded(seed):
        batch = feeding.submit(encoded([helpers.encoded(seed)]))
        batch.wait()
        return batch.pixels

    first = decoded(0)
    view = first[0]
    del first
    second = decoded(1)
    np.testing.assert_array_equal(view, expected_pixels(helpers.encoded(0)))
    assert second.ctypes.data % 4096 == 0
    assert second.flags.c_contiguous
    assert second.flags.writeable
    assert not second[1].any()
    del view, second
    gc.collect()
    for seed in range(20):
        np.testing.assert_array_equal(decoded(seed)[0], expected_pixels(helpers.encoded(seed)))
    assert len(feeding._slots) == 2


def test_threads_share_the_feeders_of_a_process():
    settings = DecodeSettings(SETTINGS, 4, 2)
    one, other = feeders.acquire(settings), feeders.acquire(settings)
    assert one is other
    datas = [helpers.encoded(seed) for seed in range(4)]
    failures = []

    def work():
        for _ in range(10):
            batch = one.submit(encoded(datas))
            batch.wait()
            failures.extend(
                row for row in range(4) if (batch.pixels[row] != expected_pixels(datas[row])).any()
            )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    ((parent, forked),) = processes(one).items()
    assert len(forked) == 2
    feeders.release(one)
    assert all(map(is_running, [parent, *forked]))
    feeders.release(one)
    assert not any(map(is_running, [parent, *forked]))


# images that crash or hang


@pytest.mark.parametrize(
    ("how", "code", "died_of"),
    [
        ("abort", "decoder_crash", "SIGABRT"),
        ("wild pointer", "decoder_crash", "SIGSEGV"),
        ("killed", "decoder_crash", "SIGKILL"),
        ("sleep in C", "decode_timeout", "within 5 s"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_lethal_fails_and_the_others_are_decoded(lethal, made, how, code, died_of, count):
    datas = [helpers.encoded(seed) for seed in range(8)]
    for row in (2, 6)[:count]:
        datas[row] = b"LETHAL" + how.encode()
    feeding = made(batch_size=8, processes=2, seconds=5.0 if "sleep" in how else 60.0)
    batch = feeding.submit(encoded(datas))
    for row, result in enumerate(batch.wait()):
        if datas[row].startswith(b"LETHAL"):
            assert (result.key, result.position, result.stage, result.code) == (
                b"k%d" % row, row, "decode", code,
            )  # fmt: skip
            assert died_of in result.message
            assert not batch.pixels[row].any()
        else:
            assert isinstance(result, Decoded)
            np.testing.assert_array_equal(batch.pixels[row], expected_pixels(datas[row]))
    assert isinstance(feeding.submit(encoded([helpers.encoded(1)])).wait()[0], Decoded)


def test_a_failure_says_where_its_image_came_from(lethal, made):
    images = [
        Encoded(b"cat 1", row, data, address="https://a.b/1")
        for row, data in enumerate([b"x", b"LETHALabort"])
    ]
    for failure in made(processes=1).submit(images).wait():
        assert (failure.key, failure.stage) == (b"cat 1", "decode")
        assert failure.message.endswith("; image: https://a.b/1")


def test_the_key_of_a_lethal_record_is_the_one_it_holds(lethal, made):
    example = helpers.example({"img": b"LETHALabort", "id": b"mine"})
    record = Record(b"default", 3, example, b"", Fields("img", "id"), "in", 0)
    assert made().submit([record]).wait()[0].key == b"mine"


@pytest.mark.parametrize("how", ["abort", "sleep"])
def test_a_record_whose_parsing_is_lethal_costs_this_process_nothing(
    lethal, made, monkeypatch, tmp_path, how
):
    """The process that looks for its key dies, or is ended, too, and the record gets the default key."""
    deadly = {"abort": "os.abort()", "sleep": "time.sleep(900)"}[how]
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "from transforms.records import examples\n"
        f"def parse(data): {deadly}\n"
        "examples.parse = parse\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{helpers.REPO}")
    record = Record(
        b"default", 3, helpers.example({"img": b"", "id": b"mine"}), b"", Fields("img", "id"), "in", 0
    )
    result = made(seconds=3.0).submit([record]).wait()[0]
    assert (result.key, result.position, result.stage) == (b"default", 3, "decode")


def test_lethal_images_cost_a_job_themselves(tmp_path):
    lethal = {
        1: (b"LETHALabort", "decoder_crash"),
        12: (b"LETHALwild pointer", "decoder_crash"),
        13: (b"LETHALsleep in C", "decode_timeout"),
        14: (b"LETHALnap", "decode_timeout"),
        25: (b"LETHALkilled", "decoder_crash"),
    }
    flags = write_input(tmp_path / "in", {n: data for n, (data, _) in lethal.items()})
    output = tmp_path / "out"
    done = helpers.job_process(*flags, "--decode_timeout=2", f"--output={output}", env=ENVIRONMENT, expect=0)
    assert "in-0.tfrecord#1: decoder_crash" in done.stderr
    assert "Traceback" not in done.stderr
    places = {line["key"]: line["code"] for line in helpers.read_ledger(output)}
    assert places == {f"in-{n // 10}.tfrecord#{n % 10}": code for n, (_, code) in lethal.items()}
    flags = write_input(tmp_path / "harmless", dict.fromkeys(lethal, b"no image"))
    helpers.job(*flags[2:], output=tmp_path / "expected")
    features = {path.name: path.read_bytes() for path in sorted(output.glob("features-*"))}
    assert features == {p.name: p.read_bytes() for p in sorted((tmp_path / "expected").glob("features-*"))}
    assert len(features) == 3
    assert verify.main([str(output)]) == verify.COMPLETE
    assert not (output / ".tmp").exists()


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_a_lethal_image_costs_itself_in_every_mode_of_direct_runner(tmp_path, mode):
    workers = 1 if mode == "multi_processing" else 2
    costs_itself(tmp_path, f"--direct_num_workers={workers}", f"--direct_running_mode={mode}")


def test_a_note_that_an_earlier_version_left_is_swept(tmp_path):
    flags = write_input(tmp_path / "in", {4: b"no image"})
    helpers.job(*flags[2:], output=tmp_path / "expected")
    (tmp_path / "out" / ".tmp").mkdir(parents=True)
    (tmp_path / "out" / ".tmp" / "00000-of-00003-begun").touch()
    helpers.job(*flags[2:], output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == helpers.contents(tmp_path / "expected")


# processes that are killed from outside


def test_a_feeder_that_was_killed_while_idle_costs_nothing(made):
    feeding = made(processes=1)
    feeding.submit(encoded([helpers.encoded(1)])).wait()
    for _ in range(3):
        ((_, (feeder,)),) = processes(feeding).items()
        os.kill(feeder, signal.SIGKILL)
        wait_until(lambda: not is_running(feeder))  # noqa: B023
        batch = feeding.submit(encoded([helpers.encoded(2)]))
        assert isinstance(batch.wait()[0], Decoded)
        np.testing.assert_array_equal(batch.pixels[0], expected_pixels(helpers.encoded(2)))


@pytest.mark.parametrize("whom", ["feeders", "parent"])
def test_killing_at_any_moment_loses_nothing(made, whom):
    """Hundreds of pieces while processes are killed: each image is decoded, none is blamed."""
    datas = [helpers.encoded(seed, width=400, height=300) for seed in range(8)]
    expected = [expected_pixels(data) for data in datas]
    feeding = made(batch_size=8, processes=2)
    feeding.submit(encoded(datas)).wait()
    killed, stop = [], threading.Event()

    def kill():
        while not stop.wait(0.4):
            for parent, forked in processes(feeding).items():
                for pid in forked[:1] if whom == "feeders" else [parent]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    until = time.monotonic() + 6
    rounds = 0
    while time.monotonic() < until or len(killed) < 5:
        batches = [feeding.submit(encoded(datas)) for _ in range(3)]
        for batch in batches:
            assert [type(result) for result in batch.wait()] == [Decoded] * 8
            for row in range(8):
                np.testing.assert_array_equal(batch.pixels[row], expected[row])
        rounds += 1
    stop.set()
    killer.join()
    assert rounds > 1


def test_the_end_of_feeders_is_the_end_of_their_processes(made):
    feeding = made(processes=2)
    feeding.submit(encoded([helpers.encoded(1)] * 8)).wait()
    ((parent, forked),) = processes(feeding).items()
    feeding.close()
    assert not any(map(is_running, [parent, *forked]))
    with pytest.raises(crew.CannotFeed):
        feeding.submit(encoded([helpers.encoded(1)]))


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("end", ["SIGKILL", "exit"])
def test_no_process_outlives_the_one_that_started_it(tmp_path, busy, end):
    program = (
        "import json, os, signal, subprocess, sys, time\n"
        "from tests.feeding.test_feeders import *\n"
        "feeding = Feeders(DecodeSettings(SETTINGS, 4, 2))\n"
        "feeding.submit(encoded([helpers.encoded(1)] * 4)).wait()\n"
        f"if {busy}: feeding.submit(encoded([b'LETHALsleep in C'] * 2)); time.sleep(1)\n"
        "((parent, forked),) = processes(feeding).items()\n"
        "print(json.dumps([parent, *forked]), flush=True)\n"
        f"os.kill(os.getpid(), signal.SIGKILL) if {end == 'SIGKILL'} else sys.exit()\n"
    )
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=helpers.REPO, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert done.returncode == (-signal.SIGKILL if end == "SIGKILL" else 0)
    pids = json.loads(done.stdout)
    assert len(pids) == 3
    wait_until(lambda: not any(map(is_running, pids)), 30)


def test_a_fork_of_the_process_does_not_keep_feeders_alive(made):
    """As those that an engine or a test runner makes: it lives on when this process has ended."""
    program = (
        "import json, os, signal, time\n"
        "from tests.feeding.test_feeders import *\n"
        "feeding = feeders.acquire(DecodeSettings(SETTINGS, 4, 2))\n"
        "feeding.submit(encoded([helpers.encoded(1)] * 4)).wait()\n"
        "((parent, forked),) = processes(feeding).items()\n"
        "fork = os.fork()\n"
        "if not fork:\n"
        "    mine = feeders.acquire(DecodeSettings(SETTINGS, 4, 2))  # a fork has feeders of its own\n"
        "    assert isinstance(mine.submit(encoded([helpers.encoded(1)])).wait()[0], Decoded)\n"
        "    print(json.dumps([parent, *forked]), flush=True)\n"
        "    os.close(1); time.sleep(30); os._exit(0)\n"
        "time.sleep(3)\n"
        "print(json.dumps(fork), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=helpers.REPO, stdout=subprocess.PIPE, text=True
    )
    pids, fork = map(json.loads, done.stdout.split("\n")[:2])
    try:
        assert len(pids) == 3
        wait_until(lambda: not any(map(is_running, pids)), 20)
        assert is_running(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


# where no process starts


def test_where_no_process_starts_images_are_decoded_on_threads(monkeypatch, made, caplog):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    datas = [*(helpers.encoded(seed) for seed in range(7)), b"no image"]
    batch = made().submit(encoded(datas))
    results = batch.wait()
    assert "do not start (/bin/false ends with exit code 1" in caplog.text
    assert "then costs the process, not only itself" in caplog.text
    assert [type(result) for result in results] == [Decoded] * 7 + [Failure]
    for row, data in enumerate(datas[:7]):
        np.testing.assert_array_equal(batch.pixels[row], expected_pixels(data))


def test_an_error_that_is_not_an_images_fault_is_raised(monkeypatch, made):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    feeding = made()

    def broken(*_):
        raise AttributeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "can_scale", broken)
        with pytest.raises(RuntimeError, match=r"decoding k0 failed, not for its content: (?s:.*)a bug"):
            feeding.submit(encoded([helpers.encoded(1)])).wait()

    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "decode", full)
        with pytest.raises(MemoryError):
            feeding.submit(encoded([helpers.encoded(1)])).wait()
    assert isinstance(feeding.submit(encoded([helpers.encoded(1)])).wait()[0], Decoded)


def test_feeders_that_keep_dying_end_the_job_with_a_reason(monkeypatch, made):
    original = forking.Forking.fork

    def closed_at_once(self, number, descriptors):
        reading, writing = os.pipe()
        original(self, number, [reading, writing, *descriptors[1:]])  # no socket: it ends with an error
        os.close(reading)
        os.close(writing)

    monkeypatch.setattr(forking.Forking, "fork", closed_at_once)
    with pytest.raises(crew.CannotFeed, match="12 processes for decoding ended one after the other"):
        made().submit(encoded([helpers.encoded(1)])).wait()


def test_feeders_that_have_failed_are_replaced_while_others_still_use_them():
    settings = DecodeSettings(SETTINGS, 4, 1)
    failed, other = feeders.acquire(settings), feeders.acquire(settings)
    assert failed is other
    failed.close()
    with pytest.raises(crew.CannotFeed):
        failed.submit(encoded([helpers.encoded(1)]))
    feeders.release(failed)
    fresh = feeders.acquire(settings)
    assert fresh is not failed
    assert isinstance(fresh.submit(encoded([helpers.encoded(1)])).wait()[0], Decoded)
    feeders.release(other)
    assert isinstance(fresh.submit(encoded([helpers.encoded(1)])).wait()[0], Decoded)
    feeders.release(fresh)
    assert fresh.has_ended


def test_setup_and_teardown_in_any_order_leave_nothing():
    step = DecodeImages(DecodeSettings(SETTINGS, 4, 1))
    step.teardown()
    step.setup()
    step.setup()
    used = step._feeders
    step.teardown()
    step.teardown()
    assert used.has_ended
    assert used not in feeders._users  # where others may be: `pipeline.extract` keeps its own
    assert used.settings not in feeders._feeders


def test_an_error_of_the_feeding_thread_ends_every_wait(monkeypatch, made):
    """Also of batches whose pieces the thread had in hand."""
    feeding = made(processes=1)
    feeding.submit(encoded([helpers.encoded(1)])).wait()

    def unforeseen(*_):
        raise OverflowError("unforeseen")

    monkeypatch.setattr(messages, "result", unforeseen)
    with pytest.raises(OverflowError, match="unforeseen"):
        feeding.submit(encoded([helpers.encoded(1)])).wait()


def test_the_forking_process_may_end_with_orders_that_it_has_not_read(made):
    feeding = made(processes=1)
    feeding.submit(encoded([helpers.encoded(1)])).wait()
    forking = feeding._crew._forking
    os.kill(forking._process.pid, signal.SIGSTOP)
    reading, writing = os.pipe()
    forking.fork(99, [reading])
    os.close(reading)
    os.close(writing)
    os.kill(forking._process.pid, signal.SIGKILL)
    for _ in range(3):
        assert isinstance(feeding.submit(encoded([helpers.encoded(1)])).wait()[0], Decoded)


def test_modules_in_the_working_directory_are_not_imported(tmp_path):
    (tmp_path / "resource.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "socket.py").write_text("raise SystemExit('not this one')")
    program = (
        f"import sys; sys.path[0] = {str(helpers.REPO)!r}\n"
        "from tests.feeding.test_feeders import *\n"
        "feeding = Feeders(DecodeSettings(SETTINGS, 4, 1))\n"
        "print(type(feeding.submit(encoded([helpers.encoded(1)])).wait()[0]).__name__, feeding._crew._on_threads)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "Decoded False\n", done.stderr


def test_a_time_limit_holds_although_the_parent_ignores_the_alarm(lethal, made):
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        result = made(seconds=1.0).submit(encoded([b"LETHALsleep in C"])).wait()[0]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert result.code == "decode_timeout"


def test_images_of_a_job_that_was_paused_are_decoded(made):
    feeding = made(batch_size=8, processes=2, seconds=2.0)
    datas = [helpers.encoded(seed, width=3000, height=3000) for seed in range(8)]
    batch = feeding.submit(encoded(datas))
    wait_until(lambda: len(next(iter(processes(feeding).values()), ())) == 2)
    for pid in next(iter(processes(feeding).values())):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    for pid in next(iter(processes(feeding).values())):
        os.kill(pid, signal.SIGCONT)
    assert [type(result) for result in batch.wait()] == [Decoded] * 8


@pytest.mark.parametrize("lethal_ones", [16, 64, 128])
def test_a_run_of_lethal_images_costs_only_those(lethal, made, lethal_ones):
    datas = [helpers.encoded(seed) for seed in range(128)]
    rows = set(np.random.default_rng(lethal_ones).permutation(127)[:lethal_ones] + 1)  # the first one is good
    for row in rows:
        datas[row] = b"LETHALwild pointer"
    results = made(batch_size=128, processes=2).submit(encoded(datas)).wait()
    assert {row for row, result in enumerate(results) if isinstance(result, Failure)} == rows


def test_where_no_image_survives_each_is_told(lethal, made):
    """So it is where a package was built for another processor: the job ends with its failures, not with a part of them."""
    results = made(batch_size=40).submit(encoded([b"LETHALwild pointer"] * 40)).wait()
    assert [result.code for result in results] == ["decoder_crash"] * 40
