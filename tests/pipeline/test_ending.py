"""What a run says first and last: what it will do, what failed, and the command that helps."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline import console, failures, main, options
from pipeline.progress import Pace, Progress, Snapshot
from tests import helpers
from transforms.commit.layout import Layout
from transforms.elements import Shard
from transforms.sources.tfrecord import RecordFile
from transforms.sources.uri_list import UriSlice


def said(capsys):
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(5):
        (tmp_path / "photos" / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    return tmp_path / "photos"


def test_the_first_line_says_what_will_be_done(photos, tmp_path, capsys):
    helpers.job(f"--input={photos}", "--batch_size=2", output=tmp_path / "out")
    first, *_ = said(capsys)
    assert first == "3 of 3 shards to do with FnApiRunner: 5 images, untrained/tiny in float32 on the CPU"
    (tmp_path / "out/receipts/00002-of-00003.json").unlink()
    helpers.job(f"--input={photos}", "--batch_size=2", output=tmp_path / "out")
    first, *_ = said(capsys)
    assert first == "1 of 3 shards to do with FnApiRunner: 1 image, untrained/tiny in float32 on the CPU"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (12345, "12,345 images")]
)
def test_counts_have_the_right_number(count, text):
    assert console.counted(count, "image") == text


@pytest.fixture
def server(photos):
    """An http server on this machine, which a list may reach only if that is allowed."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(photos))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_end_shows_an_example_of_each_failure_and_a_command_that_helps(photos, server, tmp_path, capsys):
    (photos / "bad.jpg").write_bytes(b"no image")
    rows = [f"{server}/0.jpg", f"{server}/1.jpg", f"{photos}/bad.jpg", f"{photos}/2.jpg"]
    (tmp_path / "list.txt").write_text("".join(f"{row}\n" for row in rows))
    output = tmp_path / "out put"
    helpers.job(f"--input={tmp_path}/list.txt", "--max_failure_rate=1", output=output)
    lines = said(capsys)
    at = lines.index(f"{output}: 1 feature, 3 failures")
    assert lines[at + 1].startswith(
        f"  2 blocked_address, such as {server}/0.jpg: 127.0.0.1 leads to 127.0.0.1"
    )
    assert lines[at + 2].startswith(f"  1 not_image, such as {photos}/bad.jpg: ")
    assert lines[at + 3] == "to try them again:"
    command = shlex.split(lines[at + 4])
    assert command[:3] == ["python", "-m", "pipeline.main"]
    assert command[3:] == [
        "--retry_failures",
        f"--output={output}",
        "--allow_private_networks=127.0.0.0/8",
    ]
    assert main.main(command[3:]) == 0
    assert f"{output}: 3 features, 1 failure" in said(capsys)


def config_of(*flags):
    return options.parse(["--input=a", "--output=b", *helpers.TINY, *flags])[0]


@pytest.mark.parametrize(
    ("code", "message", "flags", "advice"),
    [
        (
            "blocked_address",
            "a.b leads to 10.1.2.3, 192.168.0.7, not a public address",
            [],
            {"--allow_private_networks": "10.0.0.0/8,192.168.0.0/16"},
        ),
        (
            "blocked_address",
            "a.b leads to ::1, not a public address",
            ["--allow_private_networks=10.0.0.0/8"],
            {"--allow_private_networks": "10.0.0.0/8,::1/128"},
        ),
        ("blocked_address", "a.b leads to 169.254.169.254, not a public address", [], {}),
        ("scheme_not_allowed", "gs: is not among", ["--uri_schemes=s3"], {"--uri_schemes": "s3,gs"}),
        ("scheme_not_allowed", "ftp: is not among the allowed schemes", [], {}),
        ("too_large", "a.b announces 104857601 bytes, above", [], {"--max_bytes": "101MiB"}),
        ("too_large", "a.b sent more than max_bytes=67108864", [], {"--max_bytes": "128MiB"}),
        ("timeout", "a.b was silent too long", ["--timeout=20"], {"--timeout": "40"}),
        ("http_4xx", "a.b answered 429", [], {"--per_host": "4"}),
        ("http_4xx", "a.b answered 404", [], {}),
        ("http_4xx", "a.b answered 404; image: https://a.b/429.jpg", [], {}),
        ("decode_timeout", "took longer", [], {"--decode_timeout": "120"}),
        ("not_image", "a.b leads to 10.1.2.3", [], {}),
        ("opted_out", "a.b says X-Robots-Tag: noai", [], {}),
    ],
)
def test_the_flag_that_would_help(code, message, flags, advice):
    config = config_of(*flags)
    assert failures.flags_for(code, message, config) == advice
    config_of(*[f"{flag}={value}" for flag, value in advice.items()])  # they are valid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_report_of_a_stopped_run_says_how_far_it_came(tmp_path, number):
    pattern = helpers.write_shards(tmp_path / "in", (40,) * 6)
    flags = [*helpers.TINY, f"--input={pattern}", "--batch_size=1", "--image_size=256"]
    command = [sys.executable, "-m", "pipeline.main", *flags, f"--output={tmp_path}/out"]
    process = subprocess.Popen(
        [*command, f"--report_file={tmp_path}/report.json"],
        cwd=helpers.REPO,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/receipts/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["error"], report["exit_code"]) == ("stopped", number.name, 1)
    assert 40 <= report["images"] <= 240
    assert report["seconds"] > 0
    assert 1 <= report["shards_done"] < report["shards"]
    line = rf"stopped by {number.name} after \w+ and {report['images']} images: {report['shards_done']} of 6 shards "
    assert re.search(line, text), text


class Plan:
    def __init__(self, *sources):
        self.todo = [Shard(index, len(sources), source, "") for index, source in enumerate(sources)]
        self.units = sum(shard.units for shard in self.todo)


ROWS = UriSlice("list.txt", "txt", 0, 9, 1024, "")
RECORDS = RecordFile("in.tfrecord", 1 << 30, 0.0)


def now(images, seconds, fraction=0.1):
    return Snapshot(images, 0, 0, 0, 1, fraction, seconds, first=32)


@pytest.mark.parametrize(
    ("plan", "at_once", "snapshot", "expected"),
    [
        (
            Plan(ROWS),
            1,
            now(96, 128.0),
            "a shard of about 1,024 images takes 34m08s .*--images_per_shard=288 with",
        ),
        (Plan(ROWS), 1, now(64, 64.0), ""),  # too early
        (Plan(ROWS), 1, now(96, 30.0), ""),  # fast
        (Plan(ROWS, ROWS), 2, now(96, 50.0), r"takes 26m40s .*--images_per_shard=384 "),  # two at once
        (Plan(ROWS), 2, now(96, 30.0), ""),
        (
            Plan(RECORDS),
            1,
            now(96, 128.0, 0.01),
            r"a shard of about 9,600 images takes 5h20m .*--split_bytes=32MiB",
        ),
    ],
)
def test_a_shard_of_more_than_ten_minutes_is_warned_of(plan, at_once, snapshot, expected):
    assert bool(expected) == bool(Pace(plan, at_once, 32).warning(snapshot))
    assert re.search(expected, Pace(plan, at_once, 32).warning(snapshot))


@pytest.mark.parametrize(
    ("plan", "seconds", "shards", "expected"),
    [
        (
            Plan(ROWS),
            700.0,
            0,
            r"no shard is done after 11m40s, .* a smaller --images_per_shard with another",
        ),
        (Plan(RECORDS), 700.0, 0, "a smaller --split_bytes with another"),
        (Plan(ROWS), 700.0, 1, ""),
        (Plan(ROWS), 500.0, 0, ""),
    ],
)
def test_it_is_said_that_no_shard_is_done_where_only_receipts_tell(plan, seconds, shards, expected):
    said = Pace(plan, 2, 32).overdue(Snapshot(0, 0, 0, shards, 1, 0.0, seconds))
    assert bool(said) == bool(expected)
    assert re.search(expected, said)


@pytest.mark.parametrize(
    ("is_here", "seconds", "expected"),
    [
        (True, 700, ["a smaller --images_per_shard"]),
        (False, 700, ["the workers' logs tell whether they compute"]),
        (True, 500, []),
        (False, 500, []),
    ],
)
def test_it_is_said_once_by_where_the_workers_are(tmp_path, monkeypatch, is_here, seconds, expected):
    said = []
    monkeypatch.setattr(console, "say", said.append)
    plan = Plan(ROWS)
    plan.layout, plan.images = Layout(str(tmp_path)), None
    shown = Progress(plan, in_process=False, is_here=is_here)
    monkeypatch.setattr(shown, "_began", time.monotonic() - seconds)
    shown.line()
    shown.line()
    assert len(said) == len(expected)
    assert all(text in line for text, line in zip(expected, said, strict=True))
