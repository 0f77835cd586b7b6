"""Pictures that fail: for good, for a while, all of them, and in two inputs under one name."""

import json
from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from bit.hyperrule import Resolution
from pipeline.finetune import folder as folders
from pipeline.finetune.examples import Examples, Input
from pipeline.finetune.failures import may_pass
from pipeline.finetune.loading import Loader
from pipeline.finetune.order import Order
from tests import helpers
from tests.finetune.pictures import NAMES, TINY, finetune, png
from transforms.elements import Encoded, Failure, Shard
from transforms.feeding.settings import DecodeSettings
from transforms.imaging.preprocess import Preprocessing
from transforms.sources.uri_list import UriSlice
from transforms.storage.errors import StorageFailed

COUNT = 10


class Flaky(Input):
    """Ten pictures in two shards; `answers` has the failures of a position by the number of the try."""

    def read(self, shard, due=None, fetch=True):
        for position in range(5):
            if due is None or position in due:
                number = 5 * shard.index + position
                self.tried[number] += 1
                code = self.answers.get(number, {}).get(self.tried[number])
                key = f"{number}".encode()
                if code:
                    yield Failure(key, position, "fetch", code, "")
                else:
                    data = png(number % 3, number)
                    yield Encoded(key, position, data[:100] if number == 9 else data)


def flaky(answers):
    shards = tuple(Shard(index, 2, None, f"{index}") for index in range(2))
    source = Flaky("input", shards, *[None] * 7)
    object.__setattr__(source, "answers", answers)
    object.__setattr__(source, "tried", Counter())
    return source


@pytest.mark.parametrize(
    ("batch", "window", "cache"),
    [(5, 10, False), (5, 10, True), (5, 4, False), (32, 32, False), (32, 32, True)],
    ids=["kept", "cached", "read again", "drawn with replacement", "drawn and cached"],
)
def test_what_may_pass_is_tried_again_and_what_is_gone_is_not(batch, window, cache):
    """Epochs are 0, 1, ...: a failure in epoch e is tried again in epoch 2 e + 1."""
    always = dict.fromkeys(range(1, 100), "timeout")
    source = flaky({2: {1: "timeout"}, 3: {1: "not_found"}, 4: {1: "http_5xx", 2: "connect"}, 6: always})
    shards, positions = np.repeat([0, 1], 5), np.tile(np.arange(5), 2)
    examples = Examples(shards, positions, np.zeros(COUNT, int), np.zeros(COUNT))
    plan = Order(shards, positions, batch, 1, window)
    decode = DecodeSettings(Preprocessing(image_size=36), 16, 1)
    loader = Loader(
        source, examples, plan, Resolution(36, 32), decode, cache, keep=window >= COUNT and batch < COUNT
    )
    present: dict[int, set[int]] = {}
    failed = {}
    with closing(loader.batches(0, lambda: None)) as updates:
        for step in range(plan.updates_per_epoch * 9):
            update = next(updates)
            used = update.examples[update.batch.present]
            present.setdefault(plan.epoch_of(step), set()).update(used.tolist())
            for one in update.failed:
                failed.setdefault(int(one.key), set()).add(one.code)
    assert failed == {
        2: {"timeout"},
        3: {"not_found"},
        4: {"http_5xx", "connect"},
        6: {"timeout"},
        9: {"truncated"},
    }
    gone = {3, 6, 9}
    assert {2, 3, 4, 6, 9}.isdisjoint(present[0])
    if batch == 5:
        assert present[0] == set(range(COUNT)) - {2, 4} - gone
        assert present[1] == set(range(COUNT)) - {4} - gone
        assert present[2] == present[1]
        assert present[3] == present[8] == set(range(COUNT)) - gone
        assert source.tried[6] == 4  # epochs 0, 1, 3 and 7
    assert source.tried[3] == 1
    assert 2 <= source.tried[6] <= 5
    assert {2, 4} <= set.union(*present.values())


@pytest.mark.parametrize("window", [10, 4])
def test_an_error_of_storage_ends_the_run_and_no_thread_keeps_it(window):
    source = flaky({})
    shards, positions = np.repeat([0, 1], 5), np.tile(np.arange(5), 2)
    examples = Examples(
        shards, np.where(shards, positions + 1, positions), np.zeros(COUNT, int), np.zeros(COUNT)
    )
    object.__setattr__(
        source, "shards", tuple(Shard(n, 2, UriSlice("list.csv", "csv", 0, 9, 5, ""), "") for n in (0, 1))
    )
    decode = DecodeSettings(Preprocessing(image_size=36), 16, 1)
    plan = Order(examples.shards, examples.positions, 5, 1, window)
    loader = Loader(source, examples, plan, Resolution(36, 32), decode, False, keep=window == COUNT)
    with (
        closing(loader.batches(0, lambda: None)) as updates,
        pytest.raises(StorageFailed, match="has changed since its examples were counted"),
    ):
        for _ in updates:
            pass


@pytest.mark.parametrize(
    ("stage", "code", "status", "passes"),
    [
        ("fetch", "timeout", None, True),
        ("fetch", "http_5xx", 503, True),
        ("fetch", "connect", None, True),
        ("fetch", "http_4xx", 429, True),
        ("fetch", "http_4xx", 418, False),
        ("fetch", "not_found", 404, False),
        ("fetch", "too_large", None, False),
        ("decode", "corrupt", None, False),
        ("decode", "truncated", None, False),
        ("read", "damaged_record", None, False),
    ],
)
def test_reasons_that_pass(stage, code, status, passes):
    assert may_pass(Failure(b"k", 0, stage, code, "", status)) == passes


def ledger(output):
    return [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]


def listed(folder):
    """A list of nine pictures, and the flags that read it."""
    folder.mkdir()
    rows = [{"uri": f"{number}.png", "label": number % 3} for number in range(9)]
    for number in range(9):
        (folder / f"{number}.png").write_bytes(png(number % 3, number))
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (
        f"--input={folder}/a.jsonl",
        "--label_feature=label",
        *TINY,
        "--validation_share=0",
        "--steps=1000",
    )


@pytest.mark.parametrize("batch_size", [4, 32])
def test_a_run_whose_pictures_all_fail_ends_by_name(batch_size, tmp_path, monkeypatch, capfd):
    """Not after its thousand steps. They are there when sizes are looked at, and gone when training begins."""
    flags, output = listed(tmp_path / "in"), tmp_path / "out"
    begin = folders.begin

    def emptied(*values):
        begin(*values)
        for path in (tmp_path / "in").glob("*.png"):
            path.rename(path.with_suffix(".gone"))

    monkeypatch.setattr(folders, "begin", emptied)
    finetune(*flags, f"--batch_size={batch_size}", output=output, expect=3)
    said = capfd.readouterr().err
    assert "pictures in a row could not be used, as many as there are to train on, such as" in said
    assert "not_found" in said
    assert [line["code"] for line in ledger(output)] == ["not_found"] * 9
    assert not (output / "report.json").exists()


@pytest.mark.parametrize("code", ["not_found", "truncated", "not_image"])
def test_a_run_that_can_use_no_picture_at_all_does_not_begin(code, tmp_path, capfd):
    flags, output = listed(tmp_path / "in"), tmp_path / "out"
    for number, path in enumerate((tmp_path / "in").glob("*.png")):
        if code == "truncated":
            path.write_bytes(path.read_bytes()[:100])
        elif code == "not_image":
            path.write_bytes(b"<html>gone</html>")
        elif number:  # of a list of which no name exists, the job says so and refuses it
            path.unlink()
        else:
            path.write_bytes(b"")
    finetune(*flags, output=output, expect=3)
    said = capfd.readouterr().err
    assert "from 9 pictures, of which none can be used" in said
    assert code in said
    assert {line["code"] for line in ledger(output)} <= {code, "empty"}
    assert len(ledger(output)) == 9
    assert not (
        output / "request.json"
    ).exists()  # nothing was trained: a corrected command may take the folder


def test_failures_of_both_inputs_stay_apart_where_names_and_positions_are_equal(tmp_path):
    for name in ("a", "b"):
        good = [helpers.example({"image/encoded": png(k % 3, k), "text": NAMES[k % 3]}) for k in range(9)]
        broken = helpers.example({"image/encoded": png(0, 1)[:200], "text": NAMES[0]})
        (tmp_path / name).mkdir()
        helpers.write_tfrecord(
            tmp_path / name / "x.tfrecord", [*good, broken, helpers.example({"text": "red"})]
        )
    output = tmp_path / "out"
    finetune(f"--input={tmp_path}/a/x.tfrecord", f"--validation={tmp_path}/b/x.tfrecord", "--label_feature=text", *TINY,
             "--steps=3", output=output)  # fmt: skip
    lines = ledger(output)
    assert len({(line["shard"], line["position"], line["key"]) for line in lines}) == 2
    assert [(line["input"], line["position"], line["code"]) for line in lines] == [
        (name, *what)
        for name in ("input", "validation")
        for what in ((9, "truncated"), (10, "missing_feature"))
    ]
    report = json.loads((output / "report.json").read_text())
    assert (report["found"], report["failed"], report["evaluated"]) == (22, 4, 9)
