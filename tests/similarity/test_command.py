"""`python -m pipeline.duplicates` on real photographs: groups, representatives, the list of keys, refusals."""

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import duplicates, duplicates_plan
from tests import helpers, stores
from tests.similarity.conftest import collected, components, cosines
from transforms.similarity import exact, index, table

PHOTOS = ("astronaut.jpg", "camera.png", "china.jpg", "coffee.webp", "rocket.jpg")
VARIANTS = (".jpg", "\nsmall.png", "-copy", "-copy2", "-tiny.jpg")
APART = 0.69  # between the cosines of one photograph's variants and those of different photographs, with these weights


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Features of five photographs, each as five files: large, copies of it, resized, re-encoded; in two shards and a bit."""
    folder = tmp_path_factory.mktemp("duplicates")
    rows = []
    for variant in VARIANTS:
        for name in PHOTOS:
            source, stem = helpers.REPO / "samples" / "photos" / name, name.split(".")[0]
            path = folder / "in" / f"{len(rows)}{Path(variant.strip()).suffix or source.suffix}"
            path.parent.mkdir(exist_ok=True)
            picture = Image.open(source).convert("RGB")
            if "copy" in variant:
                shutil.copy(source, path)
            else:
                picture.thumbnail({".jpg": (450, 450), "-tiny.jpg": (200, 200)}.get(variant, (300, 300)))
                picture.save(path, quality=85)
            key = "twice" if (stem, variant[:5]) == ("rocket", "-copy") else f"{stem}{variant}"
            rows.append((str(path), key))
    with open(folder / "list.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("uri", "id"), *rows])
    helpers.job(
        f"--input={folder}/list.csv",
        "--key_feature=id",
        "--images_per_shard=11",
        "--batch_size=5",
        "--uri_schemes=file",
        output=folder / "out",
    )
    return folder / "out"


def run(*flags, expect=0):
    code = duplicates.main([str(flag) for flag in flags])
    assert code == expect, f"exit code {code}, expected {expect}"


def keys_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def records(output):
    return helpers.read_all(output)


@pytest.mark.parametrize("flags", [(), ("--exact_limit=5",)])
def test_the_variants_of_a_photograph_are_a_group(output, records, tmp_path, capsys, flags):
    to = tmp_path / "found" / "duplicates.parquet"
    run(output, f"--to={to}", f"--threshold={APART}", *flags)
    error = capsys.readouterr().err
    rows = pq.read_table(to).to_pylist()
    assert len(rows) == 25
    keys = [record["key"][0].decode() for record in records]
    sizes = [record["image/width"][0] * record["image/height"][0] for record in records]
    expected_cosines = cosines([record["embedding"] for record in records])
    for group in range(len(PHOTOS)):
        ours = [row for row in rows if row["group"] == group]
        numbers = [11 * int(row["shard"][:5]) + row["row"] for row in ours]
        assert sorted(numbers) == list(range(group, 25, 5))
        assert [row["key"] for row in ours] == [keys[number] for number in numbers]
        best = min(numbers, key=lambda number: (-sizes[number], keys[number], number))
        assert numbers[0] == best
        assert [row["is_representative"] for row in ours] == [True] + [False] * 4
        assert {row["representative"] for row in ours} == {keys[best]}
        assert [row["same_bytes"] for row in ours].count(True) == 2
        for number, row in zip(numbers, ours, strict=True):
            assert row["similarity"] == pytest.approx(expected_cosines[number, best], abs=2e-9)
            assert row["same_bytes"] == (records[number]["image/sha256"] == records[best]["image/sha256"])
    assert "groups: 5, with 25 pictures; to drop: 20, 5 with the bytes" in error
    assert ("recall against exact search: 1.0000" in error) == bool(flags)
    assert "the weights are untrained" in error


def test_the_list_has_each_key_to_drop_and_none_to_keep(output, tmp_path, capsys):
    run(output, f"--to={tmp_path}/d.parquet", f"--threshold={APART}")
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    kept = {row["key"] for row in rows if row["is_representative"]}
    dropped = keys_of(tmp_path / "d.drop.jsonl")
    assert len(dropped) == len(set(dropped)) == 19
    assert set(dropped) == {row["key"] for row in rows} - kept
    assert "astronaut\nsmall.png" in dropped
    assert "twice" not in dropped
    assert "records to drop with the key of a record to keep: 1;" in capsys.readouterr().err


@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.95, 0.99])
def test_groups_are_those_of_brute_force(output, records, tmp_path, capsys, threshold):
    run(output, f"--to={tmp_path}/d.parquet", f"--threshold={threshold}")
    found = pq.read_table(tmp_path / "d.parquet").to_pylist()
    expected = components(cosines([record["embedding"] for record in records]) >= threshold)
    groups = {}
    for row in found:
        groups.setdefault(row["group"], set()).add(11 * int(row["shard"][:5]) + row["row"])
    assert [groups[number] for number in range(len(groups))] == expected
    assert not any(np.isnan(row["similarity"]) for row in found)
    chained = sum(row["similarity"] < threshold for row in found)
    assert ("alike through others only" in capsys.readouterr().err) == bool(chained)


def test_two_runs_give_the_same_bytes_and_the_third_does_nothing(output, tmp_path, capsys):
    for name in ("a", "b"):
        run(output, f"--to={tmp_path}/{name}/d.parquet")
    first = helpers.contents(tmp_path / "a")
    assert set(first) == {"d.parquet", "d.drop.jsonl"}
    assert helpers.contents(tmp_path / "b") == first
    capsys.readouterr()
    run(output, f"--to={tmp_path}/a/d.parquet")
    assert "nothing to do" in capsys.readouterr().err
    (tmp_path / "a" / "d.drop.jsonl").unlink()
    run(output, f"--to={tmp_path}/a/d.parquet")
    assert helpers.contents(tmp_path / "a") == first


def test_keys_of_any_bytes_come_back_from_the_list():
    keys = [b"a\nb", b"\xff\x00", "ä".encode(), b'"\\', b"\r", "\u2028".encode(), b""]
    lines = b"".join(map(table.line, keys))
    assert [json.loads(line).encode(errors="surrogateescape") for line in lines.split(b"\n")[:-1]] == keys
    assert lines.isascii()


def test_keys_that_are_not_text_stay_bytes():
    given = collected(np.ones((3, 2)), keys=[b"\xff", b"b", b"c"], sizes=[(1, 1), (2, 2), (2, 2)])
    found = table.members(given, np.zeros(1, int))
    rows = table.table(given, found, ["00000-of-00001"], np.array([0])).to_pylist()
    assert [row["key"] for row in rows] == [b"b", b"c", b"\xff"]
    assert {row["representative"] for row in rows} == {b"b"}


def test_rows_count_within_their_shard_and_empty_shards_do_not_matter():
    digests = [hashlib.sha256(b"same").hexdigest()] * 6
    given = collected(np.eye(6), digests=digests)
    found = table.members(given, np.zeros(1, int))
    rows = table.table(given, found, ["00000-of-00004", "00002-of-00004"], np.array([0, 4])).to_pylist()
    assert [(row["shard"][:5], row["row"]) for row in rows] == [
        ("00000", 0), ("00000", 1), ("00000", 2), ("00000", 3), ("00002", 0), ("00002", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "missing OUTPUT"),
        (("OUT",), "missing --to"),
        (("OUT", "--to=d.csv"), "--to=d.csv is not the name of a Parquet file"),
        (("OUT", "--to=*.parquet"), "must not contain"),
        (("OUT", "--to=d.parquet", "--threshold=0"), "0 is not a cosine above 0"),
        (("OUT", "--to=d.parquet", "--threshold=1.01"), "1.01 is not a cosine"),
        (("OUT", "--to=d.parquet", "--threshold=nan"), "nan is not a cosine"),
        (("OUT", "--to=d.parquet", "--threshold=high"), "'high' is not a number"),
        (("OUT", "--to=d.parquet", "--exact_limit=0"), "0 is not a positive number"),
        (("OUT", "--to=d.parquet", "--treshold=0.9"), "did you mean --threshold"),
        (
            ("OUT", "--to=d.parquet", "--runner=FlinkRunner"),
            "--runner=FlinkRunner: duplicates works in this process",
        ),
        (("nowhere", "--to=d.parquet"), "nowhere holds no output of this job"),
        (("OUT", "--to=/proc/d.parquet"), "--to=/proc/d.parquet cannot be written to"),
    ],
)
def test_wrong_requests_end_with_2_and_the_reason(output, capsys, tmp_path, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    run(*(flag.replace("OUT", str(output)) for flag in flags), expect=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--threshold=0.8",), "threshold = 0.9, this asks for 0.8"),
        (("--threshold=0.9", "--exact_limit=7"), "exact_limit = 200000, this asks for 7"),
    ],
)
def test_the_file_of_another_request_is_refused_by_name(output, tmp_path, capsys, flags, reason):
    run(output, f"--to={tmp_path}/d.parquet", "--threshold=0.9")
    before = helpers.contents(tmp_path)
    run(output, f"--to={tmp_path}/d.parquet", *flags, expect=2)
    assert reason in capsys.readouterr().err
    assert helpers.contents(tmp_path) == before


def test_files_of_others_are_left_alone(output, tmp_path, capsys):
    (tmp_path / "d.parquet").write_bytes(b"mine")
    run(output, f"--to={tmp_path}/d.parquet", expect=2)
    assert "this command did not write it" in capsys.readouterr().err
    assert (tmp_path / "d.parquet").read_bytes() == b"mine"


@pytest.fixture
def mine(output, tmp_path):
    return shutil.copytree(output, tmp_path / "mine")


def test_an_unfinished_output_is_refused_and_taken_as_far_as_committed_if_asked(mine, tmp_path, capsys):
    (mine / "manifest.json").unlink()
    (mine / "receipts" / "00001-of-00003.json").unlink()
    run(mine, f"--to={tmp_path}/d.parquet", expect=2)
    assert "is not finished: 2 of 3 shards are committed" in capsys.readouterr().err
    run(mine, f"--to={tmp_path}/d.parquet", f"--threshold={APART}", "--partial")
    shards = set(pq.read_table(tmp_path / "d.parquet")["shard"].to_pylist())
    assert shards == {"00000-of-00003", "00002-of-00003"}


def test_an_output_without_embedding_is_refused(mine, tmp_path, capsys):
    for path in (mine / "receipts").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "outputs": {"logits": 256}}))
    run(mine, f"--to={tmp_path}/d.parquet", expect=2)
    assert "has no embedding" in capsys.readouterr().err


def test_several_outputs_are_searched_as_one(tmp_path, capsys):
    """Days of an input that grows: a picture of the second is one of the first."""
    (tmp_path / "in").mkdir()
    for day, seeds in enumerate(((0, 1), (), (2, 1))):
        for seed in seeds:
            (tmp_path / "in" / f"{day}-{seed}.png").write_bytes(helpers.encoded(seed, "PNG"))
        flags = [f"--input={tmp_path}/in", f"--skip_done={tmp_path}/days/*"]
        helpers.job(*flags, output=tmp_path / "days" / str(day))
    run(f"{tmp_path}/days/*", f"--to={tmp_path}/d.parquet", "--threshold=0.9999")
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    assert [
        (row["key"], row["is_representative"], row["same_bytes"], row["shard"], row["row"]) for row in rows
    ] == [
        (f"{tmp_path}/in/0-1.png", True, True, f"{tmp_path}/days/0/00000-of-00001", 1),
        (f"{tmp_path}/in/2-1.png", False, True, f"{tmp_path}/days/2/00000-of-00001", 0),
    ]
    assert keys_of(tmp_path / "d.drop.jsonl") == [f"{tmp_path}/in/2-1.png"]
    run(f"{tmp_path}/days/*", f"--to={tmp_path}/d.parquet", "--threshold=0.9999")
    assert "nothing to do" in capsys.readouterr().err
    run(f"{tmp_path}/days/[02]", f"--to={tmp_path}/d.parquet", "--threshold=0.9999")
    assert "nothing to do" in capsys.readouterr().err  # the same features
    run(f"{tmp_path}/no/*", f"--to={tmp_path}/e.parquet", expect=2)
    assert "names no output of this job with features" in capsys.readouterr().err


def test_a_damaged_file_ends_the_search_and_nothing_is_written(mine, tmp_path, capsys):
    path = mine / "features-00002-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    run(mine, f"--to={tmp_path}/d.parquet", expect=1)
    assert str(path) in capsys.readouterr().err
    assert not list(tmp_path.glob("d.*"))


def test_what_is_missing_is_said_before_anything_is_read(output, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(index, "is_there", lambda: False)
    run(output, f"--to={tmp_path}/d.parquet", "--exact_limit=24", expect=2)
    assert "pip install 'bit-features[duplicates]'" in capsys.readouterr().err
    run(output, f"--to={tmp_path}/d.parquet", "--exact_limit=25")
    monkeypatch.setattr(duplicates_plan, "disk_usage", lambda folder: Full)
    run(output, f"--to={tmp_path}/e.parquet", expect=2)
    assert "set TMPDIR to a folder with more" in capsys.readouterr().err


class Full:
    free = 100


def test_a_signal_stops_it_and_nothing_is_written(output, tmp_path):
    program = """
import sys, time
from pipeline import duplicates
from transforms.similarity import exact
alike = exact.alike
def slow(*arguments):
    print("here", file=sys.stderr, flush=True)
    time.sleep(2)
    return alike(*arguments)
exact.alike = slow
sys.exit(duplicates.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, str(output), f"--to={tmp_path}/d.parquet"]
    process = subprocess.Popen(command, cwd=helpers.REPO, stderr=subprocess.PIPE, text=True)
    while process.stderr.readline() != "here\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 1
    assert "stopped by SIGINT" in rest
    assert not list(tmp_path.iterdir())


def test_as_a_command_it_shows_progress_on_stderr_only_and_loads_no_tensorflow(output, tmp_path):
    program = """
import sys
from pipeline import duplicates, progress
progress._PLAIN_SECONDS = 0
code = duplicates.main(sys.argv[1:])
assert "tensorflow" not in sys.modules
sys.exit(code)
"""
    command = [sys.executable, "-c", program, str(output), f"--to={tmp_path}/d.parquet"]
    done = subprocess.run(command, cwd=helpers.REPO, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "reading 25 records: 100.0%" in done.stderr
    assert "comparing all pairs of 20 distinct vectors: 100.0%" in done.stderr


@pytest.mark.parametrize("kind", [stores.gcs, stores.s3])
def test_from_a_store_to_a_store(output, tmp_path, kind):
    run(output, f"--to={tmp_path}/d.parquet")
    with kind() as store:
        store.use()
        features, to = store.folder(), store.folder()
        stores.upload(features, helpers.contents(output))
        run(features, f"--to={to}/d.parquet", *store.flags)
        assert stores.contents(to) == helpers.contents(tmp_path)
        run(features, f"--to={to}/d.parquet", *store.flags)


def test_the_steps_of_the_search_are_called_with_what_was_asked_for(output, tmp_path, monkeypatch):
    seen = []
    search = exact.search
    monkeypatch.setattr(
        exact, "search", lambda v, t, g, tick: (seen.append((len(v), t)), search(v, t, g, tick))
    )
    run(output, f"--to={tmp_path}/d.parquet", "--threshold=0.75", "--exact_limit=20")
    assert seen == [(20, 0.75)]
    run(output, f"--to={tmp_path}/e.parquet", "--threshold=0.75", "--exact_limit=19")
    assert seen == [(20, 0.75)]
