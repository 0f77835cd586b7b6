"""Feeders that answer with garbage, that end all at once or while they start: their pieces are done by others."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests import helpers
from tests.feeding.lethal import ENVIRONMENT
from transforms.elements import Decoded, Encoded, Failure
from transforms.feeding import feeder, forking, messages
from transforms.feeding.crew import CannotFeed
from transforms.feeding.feeders import Feeders
from transforms.feeding.settings import DecodeSettings
from transforms.imaging import preprocess
from transforms.imaging.preprocess import Preprocessing

SETTINGS = Preprocessing(image_size=16)


@pytest.fixture
def made():
    all_made: list[Feeders] = []

    def make(processes=2, batch_size=8, seconds=60.0) -> Feeders:
        all_made.append(Feeders(DecodeSettings(SETTINGS, batch_size, processes, seconds)))
        return all_made[-1]

    yield make
    for one in all_made:
        one.close()


@pytest.fixture
def lethal(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def images(*datas: bytes) -> list[Encoded]:
    return [Encoded(b"k%d" % position, position, data) for position, data in enumerate(datas)]


GOOD = [helpers.encoded(seed) for seed in range(8)]


def check(batch, but: int | None = None) -> Failure | None:
    """Checks that all images are decoded but one, which is returned."""
    results = batch.wait()
    expected = np.empty((16, 16, 3), np.float32)
    for row, (image, result) in enumerate(zip(batch.images, results, strict=True)):
        if row == but:
            assert not batch.pixels[row].any()
        else:
            preprocess.decode(image.data, SETTINGS, expected)
            assert (type(result), result.position) == (Decoded, row)
            np.testing.assert_array_equal(batch.pixels[row], expected)
    return None if but is None else results[but]


# garbage


@pytest.mark.parametrize("how", ["noise", "number", "count", "status", "lengths", "half"])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_image_after_which_a_feeder_answers_with_garbage_fails_alone(lethal, made, how, processes):
    datas = [*GOOD[:5], b"LETHALgarble:" + how.encode(), *GOOD[6:]]
    feeding = made(processes)
    failure = check(feeding.submit(images(*datas)), 5)
    assert (failure.key, failure.stage, failure.code) == (b"k5", "decode", "decoder_crash")
    reason = "exit code 3" if how == "half" else "it answered with garbage"
    assert reason in failure.message
    check(feeding.submit(images(*GOOD)))


@pytest.mark.parametrize("then", ["silence", "a hang", "no time limit"])
def test_half_an_answer_is_not_waited_for_beyond_the_time_limit(lethal, made, then):
    datas = [*GOOD[:5], f"LETHALgarble:half, then {then}".encode(), *GOOD[6:]]
    feeding = made(1, seconds=3.0)
    failure = check(feeding.submit(images(*datas)), 5)
    assert (failure.key, failure.code) == (b"k5", "decoder_crash")
    assert "only in part" in failure.message
    check(feeding.submit(images(*GOOD)))


@pytest.mark.parametrize("how", ["noise", "half"])
def test_garbage_that_does_not_come_again_fails_no_image(lethal, made, tmp_path, how):
    datas = [*GOOD[:5], f"LETHALgarble:{how}:{tmp_path / 'once'}".encode(), *GOOD[6:]]
    failure = check(made().submit(images(*datas)), 5)
    assert (tmp_path / "once").exists()
    assert failure.code == "corrupt"  # as the decoder says of it
    assert "survived" in failure.message


def test_a_feeder_that_says_more_than_it_was_asked_is_replaced(lethal, made):
    """What it said first stands."""
    feeding = made(1)
    failure = check(feeding.submit(images(*GOOD[:7], b"LETHALgarble:twice")), 7)
    assert "survived" in failure.message
    for _ in range(3):
        check(feeding.submit(images(*GOOD)))


def test_garbage_from_a_thread_has_another_one_do_its_piece(made, decoding_here, monkeypatch):
    original, garbage = messages.reply, [b"\xff" * 100, messages.reply(99, [], 0.0)]

    def reply(*arguments):
        return garbage.pop() if garbage else original(*arguments)

    monkeypatch.setattr(messages, "reply", reply)
    check(made().submit(images(*GOOD)))
    assert not garbage


def test_a_thread_that_ends_has_another_one_do_its_piece(made, decoding_here, monkeypatch):
    original, errors = feeder._decode, [ConnectionResetError(), BrokenPipeError()]

    def decode(*arguments):
        if errors:
            raise errors.pop()
        return original(*arguments)

    monkeypatch.setattr(feeder, "_decode", decode)
    check(made(1).submit(images(*GOOD)))
    assert not errors


def test_nothing_but_garbage_ends_the_job_with_a_reason(made, decoding_here, monkeypatch):
    monkeypatch.setattr(messages, "reply", lambda *_: b"\xff" * 100)
    feeding = made()
    with pytest.raises(CannotFeed, match="12 processes for decoding ended one after the other"):
        feeding.submit(images(*GOOD)).wait()
    with pytest.raises(CannotFeed, match="12 processes for decoding"):
        feeding.submit(images(*GOOD))


@pytest.mark.filterwarnings("error")
def test_threads_that_are_busy_at_the_end_keep_what_they_need_and_leave_nothing(
    made, decoding_here, monkeypatch
):
    original, go_on = preprocess.decode, threading.Event()

    def waiting(*arguments):
        go_on.wait()
        return original(*arguments)

    once = made()
    check(once.submit(images(*GOOD)))
    once.close()
    before = set(os.listdir("/proc/self/fd"))
    feeding = made()
    monkeypatch.setattr(preprocess, "decode", waiting)
    batches = [feeding.submit(images(*GOOD)) for _ in range(3)]
    while [thread.name for thread in threading.enumerate()].count("decode") < 2:
        time.sleep(0.01)
    feeding.close()
    del batches
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "decode":
            thread.join(60)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_batches_in_progress_at_the_end_fail(lethal, made):
    feeding = made()
    batches = [feeding.submit(images(*GOOD[1:], b"LETHALsleep in C")) for _ in range(3)]
    feeding.close()
    for batch in batches:
        with pytest.raises(CannotFeed, match="were ended while they decoded"):
            batch.wait()


# processes that end


def forked_by(feeding: Feeders) -> list[int]:
    parent = feeding._crew._forking._process.pid
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("whom", ["all feeders", "their parent"])
def test_the_end_of_many_feeders_at_once_is_survived(made, whom):
    """As when a system runs out of memory: they are more than may end one after the other."""
    feeding = made(16, batch_size=16)
    check(feeding.submit(images(*GOOD, *GOOD)))
    before = forked_by(feeding)
    assert len(before) == 16
    for process in before if whom == "all feeders" else [feeding._crew._forking._process.pid]:
        os.kill(process, signal.SIGKILL)
    for _ in range(3):
        check(feeding.submit(images(*GOOD, *GOOD)))
    assert not set(before) & set(forked_by(feeding))


def killed_at_once(monkeypatch, times: int) -> list[subprocess.Popen]:
    """Has the processes that fork feeders killed while they start, so many times; returns those that were started."""
    original, started = subprocess.Popen, []

    def popen(*arguments, **options):
        started.append(original(*arguments, **options))
        if len(started) <= times:
            started[-1].kill()
        return started[-1]

    monkeypatch.setattr(forking.subprocess, "Popen", popen)
    return started


def test_one_that_is_killed_while_it_starts_is_started_again(made, monkeypatch, caplog):
    started = killed_at_once(monkeypatch, 2)
    check(made().submit(images(*GOOD)))
    assert len(started) == 3
    assert not caplog.text


def test_those_that_are_always_killed_while_they_start_end_the_job_with_a_reason(made, monkeypatch):
    killed_at_once(monkeypatch, 1000)
    with pytest.raises(CannotFeed, match="12 processes for decoding ended one after the other"):
        made().submit(images(*GOOD)).wait()


# a large picture at a time


def test_feeders_take_turns_and_one_that_dies_ends_its_turn(tmp_path):
    """The time limit does not run while one waits, for two seconds, and runs again in its turn."""
    program = (
        "import os, signal, sys, time\n"
        "from transforms.feeding.forker import _Turn\n"
        "turn = _Turn(os.open(sys.argv[1], os.O_RDWR), float(sys.argv[2]))\n"
        "signal.setitimer(signal.ITIMER_REAL, 1)\n"
        "with turn:\n"
        "    print('in', flush=True)\n"
        "    time.sleep(float(sys.argv[3]))\n"
        "    print('out', flush=True)\n"
    )
    (tmp_path / "lock").touch()

    def start(limit: float, sleeps: float) -> subprocess.Popen:
        command = [sys.executable, "-c", program, str(tmp_path / "lock"), str(limit), str(sleeps)]
        return subprocess.Popen(command, cwd=helpers.REPO, stdout=subprocess.PIPE, text=True)

    first = start(100, 100)
    assert first.stdout.readline() == "in\n"
    second = start(100, 0)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(3)
    first.kill()
    assert first.communicate()[0] == ""
    assert second.communicate()[0] == "in\nout\n"
    assert second.returncode == 0
    third = start(0.2, 100)
    assert third.communicate()[0] == "in\n"
    assert third.returncode == -signal.SIGALRM
