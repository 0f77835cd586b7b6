"""Signals at every stage, the lock of the folder, damaged checkpoints, and requests that are refused late."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest

from bit.export import write_checkpoint
from bit.models import ARCHITECTURES
from bit.training import Settings, Trainer
from bit.weights import Untrained
from pipeline import weights as weights_of_job
from pipeline.finetune import checkpoints, evaluation, examples, folder, loading, run
from pipeline.finetune import request as requests
from pipeline.finetune.journal import Journal
from pipeline.signals import Stopped
from tests import helpers
from tests.finetune.pictures import NAMES, TINY, finetune, png, records

SHORT = (*TINY, "--steps=6", "--validation_share=0.3", "--evaluate_every=3")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return records(tmp_path_factory.mktemp("in") / "a.tfrecord", 5)


@pytest.fixture(scope="module")
def undisturbed(shard, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    finetune(*flags_of(shard), output=output)
    return output


def flags_of(shard):
    return (f"--input={shard}", "--label_feature=text", *SHORT)


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Has the run get a signal once it has noted an update."""
    trained = Journal.trained

    def noted(self, at, *values):
        trained(self, at, *values)
        if at == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Journal, "trained", noted)


@pytest.mark.parametrize(
    ("where", "name", "number"),
    [
        (weights_of_job, "identify", signal.SIGINT),  # the download
        (examples, "find", signal.SIGTERM),
        (examples, "scan", signal.SIGINT),
        (examples, "sample", signal.SIGTERM),
        (run, "weights_of", signal.SIGINT),
        (run.export, "export", signal.SIGTERM),
    ],
)
def test_a_signal_ends_what_waits_for_others(where, name, number, shard, tmp_path, monkeypatch, capfd):
    """As if a host or a disk did not answer; the same command then does it all."""
    blocked = threading.Event()

    def wait(*_, **__):
        os.kill(os.getpid(), number)
        blocked.wait()

    with monkeypatch.context() as patched:
        patched.setattr(where, name, wait)
        finetune(*flags_of(shard), output=tmp_path / "out", expect=1)
    assert f"stopped ({signal.Signals(number).name}): the same command goes on" in capfd.readouterr().err
    if name in ("scan", "export"):
        finetune(*flags_of(shard), output=tmp_path / "out")
    blocked.set()


@pytest.mark.parametrize("stage", ["reading", "between micro-batches", "evaluation"])
def test_a_signal_within_an_update_or_an_evaluation_saves_what_was_done(
    stage, shard, undisturbed, tmp_path, monkeypatch, capfd
):
    output, blocked = tmp_path / "out", threading.Event()
    flags = (*flags_of(shard), "--micro_batch=2")
    with monkeypatch.context() as patched:
        if stage == "reading":  # the third update's pictures do not come
            batches = run.Loader.batches

            def stuck(self, step, check):
                yield from itertools.islice(batches(self, step, check), 2)
                os.kill(os.getpid(), signal.SIGTERM)
                yield from loading.ahead((blocked.wait() for _ in range(1)), 1, check)

            patched.setattr(run.Loader, "batches", stuck)
        elif stage == "evaluation":
            patched.setattr(
                evaluation, "evaluate", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or list(_[1])
            )
        else:
            launch, count = run.Trainer._launch, [0]

            def launched(self, *values):
                count[0] += 1
                if count[0] == 4 + 1 + 2:  # the third update's second micro-batch
                    os.kill(os.getpid(), signal.SIGTERM)
                return launch(self, *values)

            patched.setattr(run.Trainer, "_launch", launched)
        finetune(*flags, output=output, expect=1)
    assert "stopped (SIGTERM)" in capfd.readouterr().err
    blocked.set()
    done = {"reading": 2, "between micro-batches": 2, "evaluation": 3}[stage]
    assert (output / "checkpoints" / f"step-{done:09d}.npz").exists()
    finetune(*flags, output=output)
    steps = [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2, 3, 4, 5, 5]
    assert close_to(output, undisturbed)


def close_to(one, other):
    with np.load(one / "weights.npz") as got, np.load(other / "weights.npz") as expected:
        return all(np.allclose(got[name], expected[name], rtol=1e-3, atol=1e-5) for name in expected.files)


def test_a_second_process_is_refused_and_may_follow(shard, tmp_path, capfd):
    output = tmp_path / "out"
    output.mkdir()
    with open(output / ".lock", "w") as lock:
        lock.write("process 7 on elsewhere\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        finetune(*flags_of(shard), output=output, expect=2)
    assert "in use by another run of this command (process 7 on elsewhere)" in capfd.readouterr().err
    finetune(*flags_of(shard), output=output)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another network"])
def test_a_damaged_checkpoint_is_passed_over(damage, shard, undisturbed, tmp_path, monkeypatch, capfd):
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        finetune(*flags_of(shard), "--checkpoint_minutes=0", output=output, expect=1)
    older, newest = sorted((output / "checkpoints").glob("*.npz"))
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    newest.write_bytes({"cut": content[:1000], "empty": b""}.get(damage, content))
    if damage == "another network":
        with np.load(older) as stored:
            arrays = dict(stored)
        first = next(name for name in arrays if name.startswith("momentum/"))
        np.savez(newest, **arrays | {first: np.zeros(3, np.float32)})
    capfd.readouterr()
    finetune(*flags_of(shard), output=output)
    said = capfd.readouterr().err
    assert f"{newest} is damaged" in said
    assert f"going on from the checkpoint before step {int(older.stem[5:])}" in said
    assert close_to(output, undisturbed)


def test_damaged_places_of_examples_are_found_again(shard, tmp_path, monkeypatch, capfd):
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_at(patched, 2)
        finetune(*flags_of(shard), output=output, expect=1)
    before = (output / "examples.npz").read_bytes()
    (output / "examples.npz").write_bytes(before[: len(before) // 2])
    finetune(*flags_of(shard), output=output)
    assert "examples.npz is damaged" in capfd.readouterr().err
    assert (output / "examples.npz").read_bytes() == before


@pytest.mark.parametrize("case", ["classes", "share", "weights", "labels"])
def test_a_request_that_is_refused_leaves_the_folder_to_the_corrected_one(case, shard, tmp_path, capfd):
    output, names, more = tmp_path / "out", tmp_path / "names.txt", tmp_path / "bad.tfrecord"
    names.write_text("blue\ngreen\n")
    helpers.write_tfrecord(more, [helpers.example({"image/encoded": png(0, 0), "text": ""})])
    good = [flag for flag in flags_of(shard) if not flag.startswith("--validation_share")]
    without_model = [flag for flag in good if not flag.startswith("--model")]
    tiny = Untrained(ARCHITECTURES["tiny"], 4)
    write_checkpoint(tiny, str(tmp_path / "tiny.npz"))
    refused, says = {
        "classes": ((*good, f"--classes={names}"), "1 label not in --classes, such as 'red'"),
        "share": ((*good, "--validation_share=1"), "no example is left to train on"),
        "weights": ((*without_model, f"--model={tmp_path}/tiny.npz", "--momentum=0.5"), "tiny.npz"),
        "labels": ((f"--input={more}", "--label_feature=text", *SHORT), "no example has a label"),
    }[case]
    if case == "weights":  # an array is damaged, which only reading it shows
        content = bytearray((tmp_path / "tiny.npz").read_bytes())
        content[len(content) // 2] ^= 0xFF
        (tmp_path / "tiny.npz").write_bytes(content)
    finetune(*refused, output=output, expect=2)
    assert says in capfd.readouterr().err
    assert not output.exists()
    if case in ("weights", "labels"):
        finetune(*good, output=output)


def test_files_of_others_are_never_taken_for_a_refused_request(shard, tmp_path, capfd):
    output = tmp_path / "out"
    output.mkdir()
    (output / "failures.jsonl").write_text("mine\n")
    finetune(*flags_of(shard), output=output, expect=2)
    assert "holds 'failures.jsonl' and no run of this command" in capfd.readouterr().err
    assert helpers.contents(output) == {"failures.jsonl": b"mine\n"}


def test_the_type_of_the_label_is_part_of_the_request():
    def identity(feature):
        required = ["--input=x", "--model=untrained/tiny", "--output=o", f"--label_feature={feature}"]
        return folder.identity(requests.parse(required)[0], "w", {})

    assert identity("label") == identity("label")
    kinds = [identity(f"label{kind}")["label_type"] for kind in ("", ":int64", ":float", ":bytes")]
    assert kinds == ["", "int64", "float", "bytes"]


def test_counts_after_an_interruption_are_those_of_an_undisturbed_run(tmp_path, monkeypatch):
    """Pictures that cannot be decoded are examples to train or evaluate on, and failures: once each."""
    broken = [helpers.example({"image/encoded": png(k % 3, k)[:200], "text": NAMES[k % 3]}) for k in range(9)]
    whole = [helpers.example({"image/encoded": png(k % 3, k), "text": NAMES[k % 3]}) for k in range(12)]
    path = helpers.write_tfrecord(
        tmp_path / "a.tfrecord", [*broken, *whole, helpers.example({"text": "blue"})]
    )
    flags = (f"--input={path}", "--label_feature=text", *SHORT, "--max_failure_rate=0.45")
    finetune(*flags, output=tmp_path / "undisturbed", expect=3)  # ten of 22
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        finetune(*flags, output=output, expect=1)
    finetune(*flags, output=output, expect=3)
    finetune(*flags, output=output, expect=3)  # whose end is known
    reports = [json.loads((at / "report.json").read_text()) for at in (output, tmp_path / "undisturbed")]
    for name in ("found", "failed", "examples", "evaluated"):
        assert reports[0][name] == reports[1][name], name
    assert (reports[0]["found"], reports[0]["failed"]) == (22, 10)
    ledgers = [(at / "failures.jsonl").read_bytes() for at in (output, tmp_path / "undisturbed")]
    assert ledgers[0] == ledgers[1]
    shutil.rmtree(output)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stopped("SIGTERM"), MemoryError()])
def test_a_file_that_cannot_be_written_leaves_nothing_and_what_was_there(error, tmp_path):
    path = tmp_path / "step-000000007.npz"
    path.write_bytes(b"before")

    def write(stream):
        stream.write(b"half of it")
        raise error

    with pytest.raises(type(error)):
        checkpoints.replace_file(path, write)
    assert helpers.contents(tmp_path) == {path.name: b"before"}


def test_what_a_killed_run_left_half_written_is_removed(shard, undisturbed, tmp_path, monkeypatch):
    """At the next start, since each may take gigabytes; other files are left alone."""
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_at(patched, 2)
        finetune(*flags_of(shard), output=output, expect=1)
    left = ["checkpoints/step-000000002.npz.partial", "weights.npz.partial", "examples.npz.partial",
            "model.partial/variables/variables.data"]  # fmt: skip
    for name in (*left, "mine.partial", "checkpoints/mine.partial"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"half")
    with monkeypatch.context() as patched:
        seen = []

        def update(self, *_):
            seen.extend(str(path.relative_to(output)) for path in output.rglob("*.partial*"))
            raise Stopped("SIGTERM")

        patched.setattr(run.Run, "_update", update)
        finetune(*flags_of(shard), output=output, expect=1)
    assert sorted(seen) == ["checkpoints/mine.partial", "mine.partial"]
    with monkeypatch.context() as patched:  # as on a full disk

        def export(_, folder, **__):
            os.makedirs(f"{folder}/variables")
            raise OSError(28, "No space left on device")

        patched.setattr(run.export, "export", export)
        finetune(*flags_of(shard), output=output, expect=1)
        assert not (output / "model.partial").exists()
    finetune(*flags_of(shard), output=output)
    assert close_to(output, undisturbed)
    # Killed between its last two steps, a finished run keeps no checkpoints either.
    (output / "checkpoints").mkdir()
    (output / "checkpoints" / "step-000000006.npz").write_bytes(b"of gigabytes")
    finetune(*flags_of(shard), output=output)
    assert not (output / "checkpoints").exists()


def test_a_checkpoint_that_is_saved_removes_a_partial_one(tmp_path):
    (tmp_path / "step-000000001.npz.partial").write_bytes(b"half")
    trainer = Trainer(Untrained(ARCHITECTURES["tiny"], 3), 3, Settings(24, 4))
    checkpoints.save(tmp_path, trainer, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.npz"]
