"""--retry_failures: afterwards the output is, byte for byte, that of a run in which all inputs succeeded at once.

`python -m tests.commit.test_retry_failures KILLS [SEED]` kills retries at random moments, KILLS times.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline import options, verify, weights
from pipeline.plan import make
from pipeline.progress import Progress
from tests import helpers
from tests.http_server import HttpServer
from tests.killing import KILLED, Server
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.errors import ItemError
from transforms.imaging import preprocess

pytestmark = pytest.mark.xdist_group("retry failures")  # so that one process prepares the job to be killed

FETCH = ("--allow_private_networks=127.0.0.0/8", "--retries=0", "--images_per_shard=5", "--batch_size=2")
LENIENT = "--max_failure_rate=1"


@pytest.fixture(scope="module")
def server():
    with HttpServer() as server:
        yield server


def whole(output) -> bool:
    return verify.main([str(output)]) == verify.COMPLETE


def test_urls_that_work_now_join_their_shards(server, tmp_path, capsys):
    names = [f"/file/{seed}.jpg" for seed in range(15)]
    pictures = {name: helpers.encoded(seed) for seed, name in enumerate(names)}
    pictures[names[3]] = b"no image"
    missing = {
        names[i] for i in (0, 2, 4, *range(10, 15))
    }  # some of a shard, none of the next, all of the third
    (tmp_path / "urls.txt").write_text("".join(f"{server.url(name)}\n" for name in names))
    flags = [f"--input={tmp_path / 'urls.txt'}", *FETCH, LENIENT]
    server.files = {name: data for name, data in pictures.items() if name not in missing}
    output = tmp_path / "out"
    helpers.job(*flags, output=output)
    assert helpers.manifest(output)["failures_by_code"] == {"not_found": 8, "not_image": 1}
    untouched = (output / "features-00001-of-00003.tfrecord").stat().st_mtime_ns

    server.files = {**pictures, names[4]: b"neither", **dict.fromkeys(names[12:14], b"")}
    del server.files[names[14]]
    server.requests.clear()
    report = tmp_path / "report.json"
    helpers.job(*flags, "--retry_failures", f"--report_file={report}", output=output)
    assert set(server.requests) - {"/robots.txt"} == missing | {names[3]}
    assert json.loads(report.read_text())["tried_again"] == 9
    assert "3 shards to do (2 of them to retry 9 failures)" in capsys.readouterr().err
    helpers.job(*flags, output=tmp_path / "at-once")
    assert helpers.contents(output) == helpers.contents(tmp_path / "at-once")
    assert helpers.manifest(output)["features"] == 10
    assert whole(output)

    server.files = pictures
    helpers.job(*flags, "--retry_failures", output=output)
    helpers.job(*flags, output=tmp_path / "all-at-once")
    assert helpers.contents(output) == helpers.contents(tmp_path / "all-at-once")
    assert helpers.manifest(output)["failures_by_code"] == {"not_image": 1}
    assert not list(output.glob("failures-00002-*"))
    assert (output / "features-00001-of-00003.tfrecord").stat().st_mtime_ns == untouched
    assert whole(output)

    before = {path: path.stat().st_mtime_ns for path in output.glob("*-of-*")}
    helpers.job(*flags, "--retry_failures", output=output)  # fails again in the same way
    assert {path: path.stat().st_mtime_ns for path in output.glob("*-of-*")} == before
    assert helpers.contents(output) == helpers.contents(tmp_path / "all-at-once")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_records_that_decode_now_join_their_shards_and_damage_stays(
    tmp_path, monkeypatch, capsys, decoding_here, suffix
):
    pattern = helpers.write_shards(tmp_path / "in", (7, 2), suffix)
    if not suffix:
        path = tmp_path / "in" / "in-00000-of-00002.tfrecord"
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    flags = [f"--input={pattern}", "--batch_size=2", "--pass_through=image/class/label", LENIENT]
    helpers.job(*flags, output=tmp_path / "at-once")
    bad = {helpers.encoded(seed) for seed in (0, 2, 6, 8)}
    original = preprocess.decode
    calls = []

    def failing(data, *rest):
        calls.append(data)
        if data in bad:
            raise ItemError("truncated", "a decoder of another day")
        return original(data, *rest)

    monkeypatch.setattr(preprocess, "decode", failing)
    output = tmp_path / "out"
    helpers.job(*flags, output=output)
    assert helpers.manifest(output)["failures_by_code"]["truncated"] == 4
    bad = {helpers.encoded(2)}
    calls.clear()
    config, _ = options.parse([*helpers.TINY, *flags, "--retry_failures", f"--output={output}"])
    plan = make(config, weights.identify(config.model, is_local_run=True))
    far = Progress(plan, in_process=False)  # remote workers, which are visible only through receipts
    assert (far.snapshot().images, far.snapshot().shards_total) == (0, 2)
    helpers.job(*flags, "--retry_failures", output=output)
    assert len(calls) == 4
    assert (far.snapshot().images, far.snapshot().failures, far.snapshot().shards) == (4, 1, 2)
    assert helpers.manifest(output)["failures_by_code"]["truncated"] == 1
    assert whole(output)
    bad = set()
    helpers.job(*flags, "--retry_failures", output=output)
    assert helpers.contents(output) == helpers.contents(tmp_path / "at-once")
    assert whole(output)
    helpers.job(*flags, "--retry_failures", output=output)
    assert "no failure that could be retried" in capsys.readouterr().err
    assert helpers.contents(output) == helpers.contents(tmp_path / "at-once")


class Late:
    """A list of files of which some appear after the first run."""

    def __init__(self, folder, server: Server):
        self.server = server
        self.folder = folder
        (folder / "in").mkdir(parents=True)
        paths = [folder / "in" / f"{seed}.jpg" for seed in range(9)]
        (folder / "list.txt").write_text("".join(f"{path}\n" for path in paths))
        late = (0, 2, 3, 4, 5)  # the second shard has nothing at first
        for seed, path in enumerate(paths):
            if seed not in late:
                path.write_bytes(helpers.encoded(seed))
        self.flags = [*helpers.TINY, f"--input={folder}/list.txt", "--images_per_shard=3", "--batch_size=2"]
        self.flags.append(LENIENT)
        assert self.run(folder / "first")[0] == 0, server.errors()
        for seed in late:
            paths[seed].write_bytes(helpers.encoded(seed) if seed != 4 else b"no image")
        assert self.run(folder / "at-once")[0] == 0, server.errors()
        self.expected = helpers.contents(folder / "at-once")
        shutil.copytree(folder / "first", folder / "counted")
        code, _, self.moments = self.run(folder / "counted", "--retry_failures")
        assert code == 0, server.errors()
        assert helpers.contents(folder / "counted") == self.expected

    def run(self, output, *more, **kill):
        return self.server.run([*self.flags, *more, f"--output={output}"], **kill)

    def states(self, output) -> set[str]:
        """'old', 'new' or 'between' for each shard; the files agree with the receipt in the first two."""
        old, states = helpers.contents(self.folder / "first"), set()
        now = helpers.contents(output)
        for name in [name for name in old if name.startswith("receipts/")]:
            label = name[len("receipts/") : -len(".json")]
            receipt = receipts.read_receipt(Layout(str(output)), label)
            if receipt.replacing:
                states.add("between")
                continue
            expected = old if now[name] == old[name] else self.expected
            if old[name] != self.expected[name]:
                states.add("old" if expected is old else "new")
            same = {n: d for n, d in now.items() if label in n and not n.startswith(".tmp")}
            assert same == {n: d for n, d in expected.items() if label in n}
        return states


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    server = Server(folder)
    yield Late(folder / "job", server)
    server.close()


# States of the two shards, which are committed at the same time.
KILLS = [
    ("after write_atomic temporary.json", 1, {"old"}),  # the shards to retry are noted
    ("after place features", 1, {"old", "between"}),
    ("half a record", 2, {"old"}),
    ("before create_only claim", 1, {"old"}),
    ("after create_only claim", 1, {"old"}),
    ("after place receipt", 1, {"old", "between"}),
    ("after place failures", 1, {"between", "old", "new"}),
    ("before place receipt", 2, {"old", "between"}),
    ("after place receipt", 2, {"old", "between", "new"}),
    ("after place receipt", 4, {"new"}),
    ("after write_atomic manifest", 1, {"new"}),
]


@pytest.mark.parametrize(("moment", "time", "states"), KILLS)
def test_a_retry_that_is_killed_goes_on_with_or_without_the_flag(late, tmp_path, moment, time, states):
    assert late.moments[moment] >= time
    output = tmp_path / "out"
    shutil.copytree(late.folder / "first", output)
    code, _, _ = late.run(output, "--retry_failures", kill=[moment, time])
    assert code == KILLED, late.server.errors()
    assert late.states(output) <= states
    assert not whole(output) or moment == "after write_atomic manifest"
    flag = ["--retry_failures"] if time == 1 else []
    code, _, _ = late.run(output, *flag)
    assert code == 0, late.server.errors()
    assert helpers.contents(output) == late.expected
    assert whole(output)
    assert not (output / ".tmp").exists()


def test_wrong_use_is_refused_in_clear_words(tmp_path, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (2, 1))
    flags = [f"--input={pattern}", "--retry_failures"]
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert "holds no finished run: 0 of 2 shards are done" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for flag in ("overwrite", "dry_run"):
        helpers.job(*flags, f"--{flag}", output=tmp_path / "out", expect=2)
        assert f"--retry_failures and --{flag} exclude each other" in capsys.readouterr().err
    helpers.job(flags[0], output=tmp_path / "out")
    before = helpers.contents(tmp_path / "out")
    helpers.job(*flags, "--image_size=48", output=tmp_path / "out", expect=2)
    assert "preprocessing.image_size" in capsys.readouterr().err
    (tmp_path / "out" / "receipts" / "00001-of-00002.json").unlink()
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert "holds no finished run: 1 of 2 shards are done" in capsys.readouterr().err
    helpers.job(flags[0], output=tmp_path / "out")
    helpers.job(*flags, output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == before


def soak(kills: int, seed: int) -> None:
    """Random sequences of killed retries until `kills` kills have hit."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        late = Late(Path(folder) / "job", server)
        hit, stories, output = 0, 0, Path(folder) / "out"
        while hit < kills:
            shutil.copytree(late.folder / "first", output)
            # The first start must have the flag; once the shards to retry are noted, later starts need it no more.
            for number in range(draw.randint(1, 5)):
                moment = draw.choice(sorted(late.moments))
                kill = [moment, draw.randint(1, late.moments[moment])]
                flag = [] if number and draw.random() < 0.5 else ["--retry_failures"]
                code, _, _ = late.run(output, *flag, kill=kill)
                assert code in (0, KILLED), server.errors()
                late.states(output)
                hit += code == KILLED
            code, _, _ = late.run(output, "--retry_failures")
            assert code == 0, server.errors()
            assert helpers.contents(output) == late.expected, f"story {stories} of seed {seed}"
            assert whole(output)
            shutil.rmtree(output)
            stories += 1
        server.close()
    print(f"{hit} kills in {stories} stories from seed {seed}: each ended byte-identical")


if __name__ == "__main__":
    soak(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
