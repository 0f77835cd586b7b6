"""The verdict names the stage that really held the run back: each stage made slow in turn."""

import json
import time

import pytest

from pipeline import options, verdict
from tests import helpers
from transforms import decode, infer, read, writer
from transforms.tally import Counts

SLOW_SECONDS = 0.5


def slowed(function):
    def slow(*args, **kwargs):
        time.sleep(SLOW_SECONDS)
        return function(*args, **kwargs)

    return slow


@pytest.mark.parametrize(
    ("stage", "module", "name", "said"),
    [
        ("input", read.records, "parse", "held back by waiting for input"),
        ("decode", decode.images, "decode", "held back by waiting for decoded images"),
        ("model", infer, "infer", "held back by the model"),
        ("write", writer.tfrecord, "frame", "held back by writing"),
    ],
)
def test_the_slow_stage_is_named(tmp_path, monkeypatch, capsys, stage, module, name, said):
    pattern = helpers.write_shards(tmp_path / "in", (8,))
    monkeypatch.setattr(module, name, slowed(getattr(module, name)))
    report = tmp_path / "report.json"
    flags = [f"--input={pattern}", "--batch_size=1", "--decode_threads=1", f"--report_file={report}"]
    helpers.job(*flags, output=tmp_path / "out")
    assert said in capsys.readouterr().err
    seconds = json.loads(report.read_text())["stage_seconds"]
    assert max(seconds, key=seconds.get) == stage
    assert seconds[stage] >= SLOW_SECONDS


@pytest.mark.parametrize(
    ("stage", "flags", "is_list", "advice"),
    [
        ("model", [], False, "--precision=bfloat16"),
        ("model", ["--precision=bfloat16"], False, "--image_size"),
        ("decode", [], False, "--decode_threads"),
        ("input", ["--fetch_threads=10"], True, "--fetch_threads=20"),
        ("input", [], False, "--direct_num_workers=2"),
        ("write", [], False, "--direct_num_workers=2"),
    ],
)
def test_the_advice_fits_the_stage(stage, flags, is_list, advice):
    config, _ = options.parse([*helpers.TINY, "--input=a", "--output=b", *flags])
    seconds = dict.fromkeys(("input", "decode", "model", "write"), 1.0) | {stage: 7.0}
    found = verdict.judge(seconds, config, is_list)
    assert (found.stage, found.share) == (stage, 0.7)
    assert advice in found.advice


def test_no_verdict_without_time():
    config, _ = options.parse([*helpers.TINY, "--input=a", "--output=b"])
    assert verdict.judge(verdict.stage_seconds(Counts(), Counts()), config, False) is None
