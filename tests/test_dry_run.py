"""A dry run looks at a bounded sample, says what the job would take, and writes nothing."""

import json
import tempfile
from dataclasses import replace

import pytest

from pipeline import dry_run, measuring, sampling
from pipeline.estimate import Cost, Image, Job, Measured, ShardLook, estimate, job_seconds, totals
from tests import helpers


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """How long is measured does not matter here."""
    monkeypatch.setattr(measuring, "_PACE_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "_MODEL_SECONDS", 0.01)


def told(capsys, *flags, output):
    helpers.job(*flags, "--dry_run", output=output)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not output.exists()
    lines = [
        line for line in captured.err.splitlines() if line.startswith("dry run") or line[:10].strip() in NAMES
    ]
    return {line[:10].strip(): line[10:] for line in lines[1:]} | {"dry run": lines[0]}


NAMES = ("formats", "sizes", "failures", "rates", "time", "disk", "cost")


def test_what_it_finds_in_tfrecords(tmp_path, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (20, 20, 20))
    bad = [helpers.example({"image/encoded": b"bad"})] * 5
    helpers.write_tfrecord(tmp_path / "in" / "in-zz.tfrecord", [*bad, helpers.image_example(1)])
    found = told(capsys, f"--input={tmp_path}/in/in-*", "--price_per_hour=3600", output=tmp_path / "out")
    assert pattern
    assert found["dry run"].startswith(
        "dry run: 54 of about "
    )  # 16 of each of the first three, 6 of the last
    assert found["dry run"].endswith(" images, in 4 of 4 shards")
    assert found["formats"] == "JPEG 49"
    assert found["sizes"].startswith("48x40 and ")
    assert found["failures"] == "5 of 54 (not_image: 5)"
    assert all(word in found["rates"] for word in ("input ", "decode ", "model ", "write "))
    assert "95 %" in found["time"]
    assert "95 %" in found["cost"]


def test_what_it_finds_in_a_folder_and_a_report(tmp_path, capsys):
    for seed, kind in enumerate(("JPEG", "PNG", "BMP", "PNG")):
        path = tmp_path / "photos" / f"{seed}.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(helpers.encoded(seed, kind))
    report = tmp_path / "report.json"
    flags = (f"--input={tmp_path}/photos", "--images_per_shard=2", f"--report_file={report}")
    found = told(capsys, *flags, output=tmp_path / "out")
    assert found["dry run"] == "dry run: 4 of about 4 images, in 2 of 2 shards"
    assert found["formats"] == "PNG 2, JPEG 1, BMP 1"
    assert "cost" not in found
    assert json.loads(report.read_text())["status"] == "dry_run"


def test_nothing_that_can_be_decoded(tmp_path, capsys):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.example({"image/encoded": b"bad"})] * 3)
    found = told(capsys, f"--input={path}", output=tmp_path / "out")
    assert found["dry run"] == "dry run: none of 3 images in 1 shards could be decoded (not_image: 3)"


def test_the_sample_is_bounded_and_spread_over_the_shards(tmp_path, monkeypatch):
    pattern = helpers.write_shards(tmp_path / "in", (20,) * 20)
    looked = []
    original = dry_run.look_at

    def noted(shard, *arguments):
        samples, unit = original(shard, *arguments)
        looked.append((shard.index, len(samples)))
        return samples, unit

    monkeypatch.setattr(dry_run, "look_at", noted)
    helpers.job(f"--input={pattern}", "--dry_run", output=tmp_path / "out")
    assert looked == [(index, 16) for index in (1, 3, 6, 8, 11, 13, 16, 18)]


def test_no_more_rows_of_a_list_are_fetched_than_are_looked_at(tmp_path, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(
        sampling.Fetcher, "fetch", lambda self, uri: fetched.append(uri) or helpers.encoded(1)
    )
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"/nowhere/{index}.jpg\n" for index in range(200)))
    flags = (f"--input={listing}", "--images_per_shard=100")
    found = told(capsys, *flags, output=tmp_path / "out")
    assert found["dry run"] == "dry run: 32 of about 200 images, in 2 of 2 shards"
    assert len(fetched) == 32


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(tmp_path, monkeypatch, fails):
    """The list of a folder's files and the shards that are written to see what that costs are temporary."""
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        (tmp_path / "photos" / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = helpers.contents(tmp_path / "photos")
    seen = []

    def at(*arguments):
        seen.extend(scratch.iterdir())
        if fails:
            raise OSError("the disk is gone")
        return original(*arguments)

    original = dry_run.look_at
    monkeypatch.setattr(dry_run, "look_at", at)
    flags = (f"--input={tmp_path}/photos", "--dry_run")
    helpers.job(*flags, output=tmp_path / "out", expect=1 if fails else 0)
    assert len(seen) == 1
    assert not list(scratch.iterdir())
    assert helpers.contents(tmp_path / "photos") == before
    assert not (tmp_path / "out").exists()


NOTHING, WHOLE = Cost(), Job(units=100, shards=1, batch_size=10, threads=2, cores=2)


def costs(**given):
    return {name: given.get(name, NOTHING) for name in ("input", "decode", "call", "write", "commit")}


def busy(seconds):
    return Cost(seconds, seconds)


@pytest.mark.parametrize(
    ("given", "overlap", "expected"),
    [
        # a device of its own: the slowest stage sets the time
        ({"input": Cost(9), "call": Cost(5)}, 1.0, 9),
        ({"call": Cost(5), "decode": busy(4)}, 1.0, 5),
        ({"call": Cost(5), "decode": busy(30)}, 1.0, 15),
        ({"call": Cost(5), "write": Cost(7)}, 1.0, 7),
        # shards are committed beside the model, one after the other
        ({"call": Cost(5), "commit": Cost(2)}, 1.0, 5),
        ({"call": Cost(5), "commit": Cost(7)}, 1.0, 7),
        # a model on both cores leaves none to the decoders
        ({"call": Cost(5, 10), "decode": busy(4)}, 1.0, 7),
        # one on one core does, if it can be used
        ({"call": Cost(5, 5), "decode": busy(4)}, 1.0, 5),
        ({"call": Cost(5, 5), "decode": busy(4)}, 0.0, 7),
    ],
)
def test_what_sets_the_time(given, overlap, expected):
    assert job_seconds(WHOLE, costs(**given), pace=0.5, overlap=overlap) == expected


def test_other_programs_and_idle_cores_count():
    decoding = costs(decode=busy(10))
    assert job_seconds(WHOLE, decoding, pace=1.0, overlap=1.0) == 10
    one_thread = replace(WHOLE, threads=1)
    both = costs(decode=busy(10), call=busy(10))
    assert job_seconds(one_thread, both, pace=1.0, overlap=1.0) == 10


def test_short_batches_cost_as_much_as_full_ones():
    one = costs(call=Cost(1.0), decode=Cost(1.0))
    assert totals(replace(WHOLE, shards=50), 100, one)["call"].wall == 50
    assert totals(WHOLE, 100, one)["call"].wall == 10
    assert totals(WHOLE, 100, one)["decode"].wall == 100


def test_a_shard_stands_for_its_neighbours():
    """Of small images there are ten times as many, in the same bytes."""
    small = ShardLook(1000, 1, (Image(NOTHING, busy(1)),) * 16)
    large = ShardLook(1000, 10, (Image(NOTHING, busy(10)),) * 16)
    measured = Measured([NOTHING], [NOTHING], [NOTHING], [1.0])
    found = estimate(replace(WHOLE, units=2000, shards=2), [small, large], measured)
    assert (found.images, found.cpu_seconds) == (1100, 2000)
    assert found.low == found.seconds == found.high == pytest.approx(2000 + 0.4)  # and start and end
    slow = replace(large, images=(Image(NOTHING, busy(20)),) * 16)
    unseen = estimate(replace(WHOLE, units=2000, shards=20), [small, slow], measured)
    assert unseen.low < 3000 < unseen.high


def test_the_interval_holds_what_varies():
    varied = tuple(Image(NOTHING, busy(seconds)) for seconds in (1, 3) * 8)
    measured = Measured([NOTHING], [NOTHING], [NOTHING], [1.0])
    found = estimate(WHOLE, [ShardLook(100, 1, varied)], measured)
    assert found.low < 190 < found.seconds < 210 < found.high
    shaky = estimate(WHOLE, [ShardLook(100, 1, varied)], replace(measured, pace=[0.5, 1.5]))
    assert shaky.high - shaky.low > found.high - found.low
