"""The whole job on Flink: a real cluster of processes on this machine, and Flink embedded in the job server."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import engines, helpers
from tests.feeding.lethal import costs_itself

pytestmark = pytest.mark.xdist_group("engines")

# Long enough to be met in the middle, on any machine: an image a model call, and shards enough for both workers.
LONG = (16,) * 10
LONG_FLAGS = (*helpers.TINY, "--image_size=256", "--batch_size=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with engines.flink_cluster(tmp_path_factory.mktemp("flink") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def offspring():
    """Processes of the test; none may be left at its end."""
    processes = engines.Offspring()
    yield processes
    assert not processes.left()


@pytest.fixture
def launch(cluster, offspring):
    """Starts the job on the cluster; one that a failing test left running is asked to stop."""
    started = []

    def start(*flags):
        command = [sys.executable, "-m", "pipeline.main", *cluster.flags, *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, **offspring.environment}
        started.append(subprocess.Popen(command, cwd=helpers.REPO, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=120)


def wait_for_receipts(process, output, count):
    """Waits until `count` shards are committed; tells what the job said if it ends before that."""
    deadline = time.monotonic() + 600
    while len(list(output.glob("receipts/*.json"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_the_job_on_the_cluster(tmp_path, cluster, launch, number):
    pattern = helpers.write_shards(tmp_path / "in", LONG)
    process = launch(*LONG_FLAGS, f"--input={pattern}", f"--output={tmp_path / 'out'}")
    wait_for_receipts(process, tmp_path / "out", 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (1, "")
    assert f"stopped by {number.name}" in err.splitlines()[-1]
    deadline = time.monotonic() + 300
    while cluster.jobs()[0]["state"] in ("RUNNING", "CANCELLING") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert cluster.jobs()[0]["state"] == "CANCELED"
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_lost_task_manager_costs_no_byte(tmp_path, cluster, launch):
    pattern = helpers.write_shards(tmp_path / "in", LONG)
    helpers.job(*LONG_FLAGS, f"--input={pattern}", output=tmp_path / "direct")
    before = cluster.workers_started()
    output, report = tmp_path / "flink", tmp_path / "report.json"
    process = launch(*LONG_FLAGS, f"--input={pattern}", f"--output={output}", f"--report_file={report}")
    wait_for_receipts(process, output, 2)
    assert cluster.workers_started() == before + 2  # both TaskManagers are at work
    committed = {path: path.stat().st_mtime_ns for path in output.glob("receipts/*.json")}
    assert len(committed) < len(LONG)
    cluster.kill("taskmanager-1")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert cluster.workers_started() > before + 2
    assert cluster.jobs()[0]["state"] == "FINISHED"
    assert helpers.contents(output) == helpers.contents(tmp_path / "direct")
    assert {path: os.stat(path).st_mtime_ns for path in committed} == committed
    summary = json.loads(report.read_text())
    assert summary["features"] == sum(LONG)
    # What the lost worker counted is missing, and what was repeated counts again: the metrics are no account of results.
    assert summary["counters"]["out-features"] > 0
    if summary["verdict"]:  # there is none if less than two seconds are left
        assert summary["verdict"]["stage"] in summary["stage_seconds"]


@pytest.fixture(scope="module")
def embedded():
    return engines.embedded_flink()


def test_embedded_flink_gives_the_bytes_of_direct_runner(tmp_path, embedded, offspring):
    pattern = helpers.write_shards(tmp_path / "in", (5, 3, 0, 4))
    common = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*common, output=tmp_path / "direct")
    done = helpers.job_process(
        *helpers.TINY, *embedded, *common, f"--output={tmp_path / 'flink'}", env=offspring.environment
    )
    assert done.stdout == ""
    assert helpers.contents(tmp_path / "flink") == helpers.contents(tmp_path / "direct")


def test_a_lethal_image_costs_itself(tmp_path, embedded, offspring):
    costs_itself(tmp_path, *embedded, **offspring.environment)


def test_a_failing_job_ends_with_a_sentence_and_1(tmp_path, embedded, offspring):
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "receipts").write_text("a file where the folder of receipts must be")
    flags = [*helpers.TINY, *embedded, f"--input={pattern}", f"--output={tmp_path / 'out'}"]
    done = helpers.job_process(*flags, expect=1, env=offspring.environment)
    assert done.stdout == ""
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: StorageFailed: ")
    assert "receipts" in error
