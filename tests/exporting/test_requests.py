"""An export resumes, has the same bytes on every runner, and refuses what cannot be."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from pipeline import export_plan
from tests import engines, helpers, stores, terminals
from tests.exporting.conftest import run
from tests.storage.test_workers_stores import worker_pool
from transforms.exporting import steps
from transforms.storage import door

FORMATS = ("parquet", "npy", "tensorboard")


@pytest.fixture
def mine(output, tmp_path):
    """A copy of the output that a test may change."""
    return shutil.copytree(output, tmp_path / "mine")


def visible(folder):
    return {name: data for name, data in helpers.contents(folder).items() if not name.startswith(".export/")}


@pytest.fixture(scope="module")
def whole(output, tmp_path_factory):
    """The files of complete exports, by format."""
    folder = tmp_path_factory.mktemp("whole")
    for format in FORMATS:
        run(output, f"--to={folder / format}", f"--format={format}")
    return {format: visible(folder / format) for format in FORMATS}


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_run_does_nothing(output, tmp_path, capsys, format):
    flags = (output, f"--to={tmp_path}/to", f"--format={format}")
    run(*flags)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*") if path.is_file()}
    capsys.readouterr()
    run(*flags)
    assert "nothing to do" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(("format", "dies_at"), [(format, at) for format in FORMATS for at in (0, 1, 2)])
def test_an_export_that_was_killed_goes_on_where_it_was(output, tmp_path, whole, format, dies_at):
    """Killed while it decides the columns, writes the last shard, or finishes."""
    flags = [str(output), f"--to={tmp_path}/to", f"--format={format}"]
    place = ("write_columns", "written", "finish")[dies_at]
    program = f"""
import os, sys
from pipeline import export
from transforms.exporting import base, steps
if {place!r} == "written":
    batches = base.batches
    def last(layout, part, schema):
        yield from batches(layout, part, schema)
        if part.label.startswith("00002"):
            os._exit(9)
    from transforms.exporting import npy, parquet, tensorboard
    parquet.batches = npy.batches = tensorboard.batches = last
else:
    setattr(steps, {place!r}, lambda *arguments: os._exit(9))
export.main(sys.argv[1:])
"""
    done = subprocess.run([sys.executable, "-c", program, *flags], cwd=helpers.REPO, capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    assert (tmp_path / "to" / ".export" / "request.json").exists()
    run(*flags)
    assert visible(tmp_path / "to") == whole[format]


@pytest.mark.parametrize("format", FORMATS)
def test_files_that_were_lost_are_written_again_and_only_these(output, tmp_path, whole, format):
    flags = (output, f"--to={tmp_path}/to", f"--format={format}")
    run(*flags)
    lost = (
        tmp_path
        / "to"
        / {"parquet": "features-00002-of-00003.parquet", "npy": "img_emb/img_emb_00002.npy"}.get(
            format, "projector_config.pbtxt"
        )
    )
    kept = list((tmp_path / "to").rglob("*00000*"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    lost.unlink()
    run(*flags)
    assert visible(tmp_path / "to") == whole[format]
    assert {path: path.stat().st_mtime_ns for path in kept} == before


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("--format=parquet", "--dtype=float16"), "dtype = 'float32', this asks for 'float16'"),
        (("--format=parquet", "--normalize=l2"), "normalize = 'none', this asks for 'l2'"),
        (("--format=npy",), "format = 'parquet', this asks for 'npy'"),
        (("--format=tensorboard",), "format = 'parquet', this asks for 'tensorboard'"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "begun"])
def test_another_request_on_the_same_folder_is_refused_by_name(output, tmp_path, capsys, flags, name, state):
    run(output, f"--to={tmp_path}/to", "--format=parquet")
    if state == "begun":
        (tmp_path / "to" / "features-00002-of-00003.parquet").unlink()
    before = helpers.contents(tmp_path / "to")
    run(output, f"--to={tmp_path}/to", *flags, expect=2)
    assert name in capsys.readouterr().err
    assert helpers.contents(tmp_path / "to") == before


def test_another_limit_is_refused_by_name(output, tmp_path, capsys):
    run(output, f"--to={tmp_path}/to", "--format=tensorboard")
    run(output, f"--to={tmp_path}/to", "--format=tensorboard", "--limit=5", expect=2)
    assert "limit = 10000, this asks for 5" in capsys.readouterr().err


def test_other_features_are_refused(mine, tmp_path, capsys):
    run(mine, f"--to={tmp_path}/to", "--format=parquet")
    path = mine / "receipts" / "00000-of-00003.json"
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps({**receipt, "versions": {**receipt["versions"], "numpy": "0"}}))
    run(mine, f"--to={tmp_path}/to", "--format=parquet", expect=2)
    assert "was made from other features" in capsys.readouterr().err


def test_files_of_others_are_left_alone(output, tmp_path, capsys):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "features-of-mine.parquet").write_bytes(b"mine")
    run(output, f"--to={tmp_path}/to", "--format=parquet", expect=2)
    assert "features-of-mine.parquet, which no export wrote" in capsys.readouterr().err
    assert helpers.contents(tmp_path / "to") == {"features-of-mine.parquet": b"mine"}


def test_an_unfinished_output_is_refused_and_exported_as_far_as_committed_if_asked(mine, tmp_path, capsys):
    (mine / "manifest.json").unlink()
    (mine / "receipts" / "00001-of-00003.json").unlink()
    (mine / "receipts" / "00002-of-00003.json").unlink()
    run(mine, f"--to={tmp_path}/to", "--format=parquet", expect=2)
    error = capsys.readouterr().err
    assert "is not finished: 1 of 3 shards are committed" in error
    assert "--partial" in error
    assert not (tmp_path / "to").exists()
    run(mine, f"--to={tmp_path}/to", "--format=parquet", "--partial")
    (path,) = (tmp_path / "to").iterdir()
    assert (path.name, pq.read_metadata(path).num_rows) == ("features-00000-of-00003.parquet", 6)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "missing OUTPUT"),
        (("OUT",), "missing --to"),
        (("OUT", "--to=to"), "missing --format"),
        (("OUT", "--to=to", "--format=csv"), "invalid choice: 'csv'"),
        (("OUT", "--to=to", "--format=parquet", "--limit=0"), "0 is not a positive number"),
        (("OUT", "--to=to", "--format=parquet", "--dtyp=float16"), "did you mean --dtype"),
        (("OUT", "--to=to/*", "--format=parquet"), "--to=to/*: a folder's name must not contain"),
        (("OUT", "--to=OUT/", "--format=parquet"), "is the output of the job"),
        (("OUT", "--to=to", "--format=parquet", "--input=x"), "--input is for the pictures"),
        (("nowhere", "--to=to", "--format=parquet"), "nowhere holds no output of this job"),
        (("OUT", "--to=/proc/to", "--format=parquet"), "--to=/proc/to cannot be written to"),
    ],
)
def test_wrong_requests_end_with_2_and_the_reason(output, capsys, tmp_path, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    run(*(flag.replace("OUT", str(output)) for flag in flags), expect=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["npy", "tensorboard"])
def test_an_output_without_embedding_is_refused_where_it_is_needed(mine, tmp_path, capsys, format):
    for path in (mine / "receipts").iterdir():
        receipt = json.loads(path.read_text())
        path.write_text(json.dumps({**receipt, "outputs": {"logits": 256} if receipt["features"] else {}}))
    run(mine, f"--to={tmp_path}/to", f"--format={format}", expect=2)
    assert "has no embedding" in capsys.readouterr().err


def test_a_damaged_file_ends_the_export_and_leaves_no_file_of_its_shard(mine, tmp_path, capsys):
    path = mine / "features-00002-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    run(mine, f"--to={tmp_path}/to", "--format=parquet", expect=1)
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in error
    assert "pipeline.verify" in error
    assert not (tmp_path / "to" / "features-00002-of-00003.parquet").exists()


def test_a_signal_stops_it_and_the_same_command_resumes(output, tmp_path, whole):
    program = """
import sys, time
from pipeline import console, export
from transforms.exporting import base, parquet
batches = base.batches
def slow(layout, part, schema):
    for batch in batches(layout, part, schema):
        if part.label.startswith("00002"):
            print("here", file=sys.stderr, flush=True)
            time.sleep(60)
        yield batch
parquet.batches = slow
console.leave(export.main)
"""
    flags = [str(output), f"--to={tmp_path}/to", "--format=parquet"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *flags], cwd=helpers.REPO, stderr=subprocess.PIPE, text=True
    )
    while process.stderr.readline() != "here\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 1
    assert "stopped by SIGINT: 2 of 3 shards exported" in rest
    run(*flags)
    assert visible(tmp_path / "to") == whole["parquet"]


def test_on_a_terminal_one_live_line_shows_how_far_it_is(output, tmp_path):
    program = """
import sys, time
from pipeline import console, export
from transforms.exporting import base, parquet
batches = base.batches
def slow(layout, part, schema):
    for batch in batches(layout, part, schema):
        time.sleep(1)
        yield batch
parquet.batches = slow
console.leave(export.main)
"""
    command = [sys.executable, "-c", program, str(output), "--to=to", "--format=parquet"]
    code, written = terminals.run(command, tmp_path)
    assert code == 0, written
    assert re.search(r"\d+/10 records, [\d.]+/s, shard \d/3, about \d+s left", written)
    lines = [re.sub(r"[\d.]+", "N", line) for line in terminals.screen(written) if line]
    assert lines == ["N of N shards to export with FnApiRunner", "N records in N s (N/s)", "to: N records"]


@pytest.mark.parametrize("format", FORMATS)
def test_two_workers_give_the_same_bytes(output, tmp_path, whole, format):
    run(output, f"--to={tmp_path}/to", f"--format={format}", "--direct_num_workers=2")
    assert visible(tmp_path / "to") == whole[format]


@pytest.mark.xdist_group("engines")
@pytest.mark.parametrize("engine", ["prism", "flink"])
def test_engines_give_the_same_bytes(output, tmp_path, whole, engine):
    flags = (
        engines.embedded_flink()
        if engine == "flink"
        else (
            "--runner=PrismRunner",
            f"--prism_location={engines.prism()}",
        )
    )
    command = [
        sys.executable,
        "-m",
        "pipeline.export",
        str(output),
        f"--to={tmp_path}/to",
        "--format=parquet",
    ]
    done = subprocess.run([*command, *flags], cwd=helpers.REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert visible(tmp_path / "to") == whole["parquet"]


@pytest.mark.parametrize("kind", [stores.gcs, stores.s3])
def test_from_a_store_to_a_store(output, tmp_path, whole, kind):
    with kind() as store:
        store.use()
        features, to = store.folder(), store.folder()
        stores.upload(features, helpers.contents(output))
        for format in FORMATS:
            flags = (features, f"--to={to}/{format}", f"--format={format}", *store.flags)
            run(*flags)
            written = stores.contents(f"{to}/{format}")
            assert {n: d for n, d in written.items() if not n.startswith(".export/")} == whole[format]
            assert format == "tensorboard" or not [name for name in written if name.startswith(".export")]
            run(*flags)


@pytest.mark.xdist_group("stores")
@pytest.mark.parametrize("workers", ["processes", "a pool"])
def test_flags_for_a_store_reach_the_workers(output, tmp_path, whole, workers):
    """Processes that know no store: a pool does not even get Beam's options."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(stores.s3())
        store.use()
        features, to = store.folder(), store.folder()
        stores.upload(features, helpers.contents(output))
        engine = ["--direct_num_workers=1", "--direct_running_mode=multi_processing"]
        if workers == "a pool":
            port = stack.enter_context(worker_pool())
            engine = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
            engine.append(f"--environment_config=localhost:{port}")
        command = [sys.executable, "-m", "pipeline.export", features, f"--to={to}", "--format=parquet"]
        done = subprocess.run(
            [*command, *engine, *store.flags], cwd=helpers.REPO, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert "secret" not in done.stderr
        assert stores.contents(to) == whole["parquet"]


def test_an_attempt_that_comes_late_changes_nothing(output, tmp_path, whole):
    run(output, f"--to={tmp_path}/to", "--format=parquet")
    from pipeline import export

    arguments, beam_options = export.parse([str(output), f"--to={tmp_path}/to", "--format=parquet"])
    plan = export_plan.make(arguments, beam_options)
    for part in plan.parts:
        assert list(steps.WriteParts(plan.export).process(part)) == [part.label]
    steps.finish(plan.export)
    assert visible(tmp_path / "to") == whole["parquet"]
    assert door.match(f"{tmp_path}/to/.export/*") == []
