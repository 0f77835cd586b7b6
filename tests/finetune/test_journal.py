"""What a run tells, where it was interrupted and goes on."""

import json

import pytest

from pipeline.finetune.journal import Journal, read


def tell(folder, steps, loss, end=9):
    journal = Journal(folder, steps[0], end)
    for step in steps:
        journal.trained(step, loss + step, 0.5, 0.1, 8, 0)
    journal.close()


def test_what_an_interrupted_run_told_of_later_steps_is_forgotten(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(tmp_path, range(6), 10)
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 6, "lo')  # the process was killed
    tell(tmp_path, range(4, 9), 20)
    expected = [10, 11, 12, 13, 24, 25, 26, 27, 28]
    assert [entry["loss"] for entry in read(tmp_path / "metrics.jsonl")] == expected
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == list(enumerate(expected))


def test_metrics_are_cut_in_one_step(tmp_path, monkeypatch):
    """A run that is killed while it begins to go on has lost nothing."""
    tell(tmp_path, range(6), 10)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(
        "pipeline.finetune.checkpoints.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path, 4, 9)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert len(json.loads(before.splitlines()[0])) > 3
