"""The bottleneck is the stage that really held the run back, and its flag helps: each stage is slowed in turn."""

import json
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline import bottleneck, options, runners
from tests import helpers
from transforms import cpus, infer
from transforms.commit import claim
from transforms.counters import Counts
from transforms.elements import Shard
from transforms.fetching.http import HttpClient
from transforms.imaging import jpeg, preprocess
from transforms.model import devices
from transforms.records import frames
from transforms.sources import tfrecord
from transforms.sources.tfrecord import RecordFile
from transforms.sources.uri_list import UriSlice
from transforms.storage import door

SLOW_SECONDS = 0.3
FLAG = re.compile(r"--[a-z_]+(?:=\S*?)?(?=[,;:]?(?:\s|$))")


class Slowed:
    """A function that takes longer, and counts how many threads are in it at once."""

    def __init__(self, function):
        self._function = function
        self._lock = threading.Lock()
        self.calls = self.inside = self.most = 0

    def __call__(self, *args, **kwargs):
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            time.sleep(SLOW_SECONDS)
            return self._function(*args, **kwargs)
        finally:
            with self._lock:
                self.inside -= 1


def slow(monkeypatch, module, name):
    slowed = Slowed(getattr(module, name))
    monkeypatch.setattr(module, name, slowed)
    return slowed


def run(folder, name, *flags):
    """Runs the job; the bottleneck in its report."""
    report = folder / f"{name}.json"
    helpers.job(
        "--batch_size=1", "--images_per_shard=1000", *flags, f"--report_file={report}", output=folder / name
    )
    return json.loads(report.read_text())["verdict"]


def the_flag(advice):
    (flag,) = FLAG.findall(advice)
    return flag


def images_list(folder, count):
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        (folder / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    (folder / "list.txt").write_text("".join(f"{folder}/{seed}.jpg\n" for seed in range(count)))
    return folder / "list.txt"


@pytest.mark.parametrize(
    ("stage", "module", "name", "line"),
    [
        ("input", tfrecord, "Record", "bottleneck: reading input ("),
        ("decode", preprocess, "decode", "bottleneck: decoding images ("),
        ("model", infer, "infer", "bottleneck: the model ("),
        ("write", frames, "framed", "bottleneck: writing ("),
    ],
)
def test_the_slow_stage_is_named(tmp_path, monkeypatch, capsys, decoding_here, stage, module, name, line):
    pattern = helpers.write_shards(tmp_path / "in", (8,))
    slow(monkeypatch, module, name)
    report = tmp_path / "report.json"
    flags = [f"--input={pattern}", "--batch_size=1", "--decode_processes=1", f"--report_file={report}"]
    helpers.job(*flags, output=tmp_path / "out")
    summary = json.loads(report.read_text())
    assert line in capsys.readouterr().err
    assert summary["verdict"]["stage"] == stage
    assert max(summary["stage_seconds"], key=summary["stage_seconds"].get) == stage
    assert summary["stage_seconds"][stage] >= SLOW_SECONDS


@pytest.mark.parametrize(
    ("stage", "module", "name", "shards_at_once"),
    [("input", tfrecord, "Record", 2), ("write", frames, "framed", 1)],
)
def test_more_workers_read_and_write_at_once(tmp_path, monkeypatch, stage, module, name, shards_at_once):
    pattern = helpers.write_shards(tmp_path / "in", (4,) * 4)
    slowed = slow(monkeypatch, module, name)
    result = run(tmp_path, "one", f"--input={pattern}")
    assert (result["stage"], the_flag(result["advice"])) == (stage, "--direct_num_workers=2")
    assert slowed.most == shards_at_once
    run(tmp_path, "two", f"--input={pattern}", the_flag(result["advice"]))
    assert slowed.most > shards_at_once


def test_more_feeders_decode_at_once(tmp_path, monkeypatch, decoding_here):
    monkeypatch.setattr(cpus, "available", lambda: 3)
    pattern = helpers.write_shards(tmp_path / "in", (9,))
    slowed = slow(monkeypatch, preprocess, "decode")
    result = run(tmp_path, "one", f"--input={pattern}", "--decode_processes=1")
    assert (result["stage"], the_flag(result["advice"])) == ("decode", "--decode_processes=3")
    assert slowed.most == 1
    run(tmp_path, "three", f"--input={pattern}", the_flag(result["advice"]))
    assert slowed.most == 3


def test_large_jpegs_are_decoded_smaller(tmp_path, monkeypatch, decoding_here):
    """With a decoder whose time depends on the pixels that it returns."""
    sizes = []

    def slow_by_pixels(stored, least_side):
        pixels = jpeg.decode(stored, least_side)
        sizes.append(pixels.shape[0] * pixels.shape[1])
        time.sleep(sizes[-1] * 1e-6)
        return pixels

    slowed = jpeg.FORMAT._replace(decode=slow_by_pixels)
    monkeypatch.setattr(preprocess, "format_of", lambda data: slowed)
    monkeypatch.setattr(cpus, "available", lambda: 2)
    large = [helpers.example({"image/encoded": helpers.encoded(i, width=640, height=512)}) for i in range(20)]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", large)
    result = run(tmp_path, "full", f"--input={path}")
    assert (result["stage"], the_flag(result["advice"])) == ("decode", "--scaled_decoding")
    full = sum(sizes)
    run(tmp_path, "scaled", f"--input={path}", the_flag(result["advice"]))
    assert sum(sizes) - full <= full / 4


def test_more_images_are_fetched_at_once(tmp_path, monkeypatch):
    listing = images_list(tmp_path / "in", 12)
    slowed = slow(monkeypatch, door, "read_capped")
    result = run(tmp_path, "one", f"--input={listing}", "--fetch_threads=1")
    assert (result["stage"], the_flag(result["advice"])) == ("input", "--fetch_threads=2")
    assert slowed.most == 1
    run(tmp_path, "two", f"--input={listing}", the_flag(result["advice"]))
    assert slowed.most == 2


def test_more_images_are_fetched_from_one_host(tmp_path, monkeypatch):
    slowed = Slowed(lambda *_: helpers.encoded(1))
    monkeypatch.setattr(HttpClient, "_request", lambda *arguments: slowed(*arguments))
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"http://host.test/{index}.jpg\n" for index in range(12)))
    result = run(tmp_path, "one", f"--input={listing}", "--per_host=1")
    assert (result["stage"], the_flag(result["advice"])) == ("input", "--per_host=2")
    assert slowed.most == 1
    run(tmp_path, "two", f"--input={listing}", the_flag(result["advice"]))
    assert slowed.most == 2


def test_fewer_commits_are_waited_for(tmp_path, monkeypatch):
    listing = images_list(tmp_path / "in", 40)
    slowed = slow(monkeypatch, claim, "commit")
    result = run(tmp_path, "small", f"--input={listing}", "--images_per_shard=1")
    assert (result["stage"], the_flag(result["advice"])) == ("write", "--images_per_shard=10")
    assert slowed.calls == 40
    run(tmp_path, "large", f"--input={listing}", the_flag(result["advice"]))
    assert slowed.calls == 44


RECORDS = [Shard(index, 4, RecordFile("a.tfrecord", 40 << 20, 0.0), "a") for index in range(4)]
ROWS = [Shard(index, 4, UriSlice("a.txt", "txt", 0, 9000, 1000, ""), "a") for index in range(4)]


def bottleneck_of(counts, *flags, shards=RECORDS):
    config, beam_options = options.parse([*helpers.TINY, "--input=a", "--output=b", *flags])
    workers = runners.workers(beam_options, runners.name_of(beam_options))
    plan = SimpleNamespace(todo=shards, images_per_shard=config.images_per_shard or 1000)
    return bottleneck.find(counts, config, plan, workers)


@pytest.mark.parametrize(
    ("counts", "flags", "shards", "flag"),
    [
        ({"wait_read_seconds": 7}, [], RECORDS, "--direct_num_workers=2"),
        ({"wait_read_seconds": 7}, ["--direct_num_workers=2"], RECORDS, "--direct_num_workers=4"),
        ({"wait_read_seconds": 7}, [], RECORDS[:1], "--split_bytes=10MiB"),
        ({"wait_read_seconds": 7}, ["--runner=PrismRunner"], RECORDS, "--direct_num_workers=2"),
        ({"wait_read_seconds": 7}, ["--runner=FlinkRunner"], RECORDS, "--parallelism=2"),
        ({"wait_read_seconds": 7}, ["--runner=FlinkRunner", "--parallelism=2"], RECORDS, "--parallelism=4"),
        (
            {"wait_read_seconds": 7},
            ["--runner=SparkRunner", "--spark_master_url=local"],
            RECORDS,
            "--spark_master_url=local[2]",
        ),
        (
            {"wait_read_seconds": 7},
            ["--runner=SparkRunner", "--spark_master_url=spark://h:1"],
            RECORDS,
            "--spark_master_url",
        ),
        ({"wait_read_seconds": 7, "fetch_seconds": 10}, [], ROWS, "--fetch_threads=64"),
        ({"wait_read_seconds": 7, "fetch_seconds": 10, "queue_seconds": 6}, [], ROWS, "--per_host=16"),
        ({"wait_write_seconds": 7, "wait_commit_seconds": 6}, [], RECORDS, "--direct_num_workers=2"),
        ({"wait_write_seconds": 7, "wait_commit_seconds": 6}, [], ROWS, "--direct_num_workers=2"),
        (
            {"wait_write_seconds": 7, "wait_commit_seconds": 6},
            ["--images_per_shard=200"],
            ROWS,
            "--images_per_shard=1000",
        ),
        ({"wait_write_seconds": 7}, [], ROWS[:1], "--images_per_shard=250"),
        ({"wait_decode_seconds": 7}, [], RECORDS, "--decode_processes"),
        ({"wait_decode_seconds": 7, "pixels": 9, "scalable_pixels": 4}, [], RECORDS, "--decode_processes"),
        ({"wait_decode_seconds": 7, "pixels": 9, "scalable_pixels": 5}, [], RECORDS, "--scaled_decoding"),
        (
            {"wait_decode_seconds": 7, "pixels": 9, "scalable_pixels": 5},
            ["--scaled_decoding"],
            RECORDS,
            "--decode_processes",
        ),
    ],
)
def test_the_advice_depends_on_what_was_counted(counts, flags, shards, flag):
    others = Counts(wait_read_seconds=1.0, wait_decode_seconds=1.0, model_seconds=1.0, wait_write_seconds=1.0)
    result = bottleneck_of(replace(others, **counts), *flags, shards=shards)
    assert result.share == 0.7
    assert the_flag(result.advice) == flag
    if "=" in flag:
        options.parse([*helpers.TINY, "--input=a", "--output=b", *flags, flag])


@pytest.mark.parametrize(
    ("precision", "gpus", "flags", "flag"),
    [
        ("bfloat16", 0, [], "--precision=bfloat16"),
        ("float16", 1, [], "--precision=float16"),
        ("bfloat16", 1, ["--precision=tensorfloat32"], "--precision=bfloat16"),
        ("bfloat16", 1, ["--precision=bfloat16"], "--batch_size=128"),
        ("bfloat16", 1, ["--precision=bfloat16", "--batch_size=128"], "--image_size"),
        ("bfloat16", 0, ["--precision=bfloat16"], "--image_size"),
        ("", 0, [], "--image_size"),
    ],
)
def test_the_advice_on_the_model_depends_on_the_device(monkeypatch, precision, gpus, flags, flag):
    monkeypatch.setattr(devices, "fast_precision", lambda: precision)
    monkeypatch.setattr(devices, "gpus_in_use", lambda: gpus)
    assert the_flag(bottleneck_of(Counts(model_seconds=9), *flags).advice) == flag


@pytest.mark.parametrize(
    ("counts", "flags", "flag"),
    [
        ({"model_seconds": 7}, [], "--precision"),
        ({"model_seconds": 7}, ["--precision=bfloat16", "--parallelism=2"], "--parallelism=4"),
        ({"wait_decode_seconds": 7}, ["--decode_processes=1"], "--decode_processes"),
        ({"wait_decode_seconds": 7, "pixels": 9, "scalable_pixels": 5}, [], "--scaled_decoding"),
    ],
)
def test_the_advice_for_workers_elsewhere_assumes_nothing_of_their_machines(monkeypatch, counts, flags, flag):
    monkeypatch.setattr(cpus, "available", lambda: 3)
    monkeypatch.setattr(devices, "fast_precision", lambda: "bfloat16")
    advice = bottleneck_of(Counts(**counts), "--runner=FlinkRunner", *flags).advice
    assert the_flag(advice) == flag
    assert "3" not in advice


ON_A_DEVICE = Counts(
    device_seconds=9.5,
    device_input_seconds=0.3,
    device_copy_seconds=0.1,
    device_host_seconds=0.1,
    # The threads that feed a device wait for it.
    model_seconds=5.0,
    wait_write_seconds=4.0,
    wait_decode_seconds=2.0,
)


def test_a_device_that_computes_nearly_all_the_time_is_as_it_should_be(monkeypatch):
    monkeypatch.setattr(devices, "fast_precision", lambda: "bfloat16")
    monkeypatch.setattr(devices, "gpus_in_use", lambda: 1)
    result = bottleneck_of(ON_A_DEVICE, "--precision=bfloat16")
    assert (
        result.line()
        == "bottleneck: the model (95% of the time); as it should be; --batch_size=128 keeps a GPU busier"
    )
    assert bottleneck.stage_seconds(ON_A_DEVICE) == pytest.approx(
        {"input": 0, "decode": 0.1, "write": 0.2, "model": 9.5, "copy": 0.1, "host": 0.1}
    )


@pytest.mark.parametrize(
    ("counts", "stage", "text"),
    [
        # What the device waits for although it computes most of the time.
        (
            {"device_input_seconds": 4.0, "wait_write_seconds": 0.1},
            "model",
            "the device waits for decoding images 28% of the time; about 5 CPUs for each device would keep it busy: "
            "--decode_processes follows their number",
        ),
        (
            {"device_copy_seconds": 4.0},
            "model",
            "the device waits for copying to the device 29% of the time; a faster link to the device would help, or a smaller "
            "--image_size, which changes the features",
        ),
        # Each in turn for most of the time.
        (
            {"device_input_seconds": 28.3, "wait_write_seconds": 0},
            "decode",
            "about 12 CPUs for each device would keep it busy: --decode_processes follows their number",
        ),
        (
            {"device_input_seconds": 28.3, "wait_read_seconds": 20.0},
            "input",
            "--direct_num_workers=2 would process more shards at once",
        ),
        (
            {"device_input_seconds": 28.3, "wait_write_seconds": 20.0},
            "write",
            "--direct_num_workers=2 would process more shards at once",
        ),
        (
            {"device_host_seconds": 28.3},
            "host",
            "--batch_size=128 would launch less often, if the device's memory holds it",
        ),
    ],
)
def test_the_verdict_on_a_device_tells_what_it_waits_for(monkeypatch, counts, stage, text):
    monkeypatch.setattr(cpus, "available", lambda: 3)
    result = bottleneck_of(replace(ON_A_DEVICE, **counts))
    assert (result.stage, result.advice) == (stage, text)
    assert the_flag(result.advice)


def test_a_processor_that_also_decodes_is_named_as_the_model():
    counts = Counts(model_seconds=9.0, wait_decode_seconds=1.0)
    assert not bottleneck_of(counts).advice.startswith("as it should be")
    assert bottleneck_of(replace(counts, wait_decode_seconds=0.4)).advice.startswith("as it should be; ")


def test_no_bottleneck_without_time():
    assert bottleneck_of(Counts()) is None
    assert bottleneck_of(Counts(wait_read_seconds=9), shards=[]) is None
