"""The whole job on Flink: a real cluster of processes on this machine, and Flink embedded in the job server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline import flink
from pipeline.main import main
from tests import engines, helpers, stores
from tests.feeding.lethal import costs_itself
from tests.storage.test_workers_stores import worker_pool

pytestmark = pytest.mark.xdist_group("engines")

DEPLOY = helpers.REPO / "deploy" / "flink"

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
def launch(cluster, offspring, tmp_path):
    """Starts the job on the cluster; one that a failing test left running is asked to stop."""
    started = []
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def start(*flags, cluster_flags=cluster.flags):
        command = [sys.executable, "-m", "pipeline.main", *cluster_flags, *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, **offspring.environment, "TMPDIR": str(temporary)}
        started.append(subprocess.Popen(command, cwd=helpers.REPO, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=120)
    assert not [path for path in temporary.iterdir() if path.name.startswith("bit-features-engine")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The input and, by DirectRunner, the output of the long job."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pattern = helpers.write_shards(folder / "in", LONG)
    helpers.job(*LONG_FLAGS, f"--input={pattern}", output=folder / "out")
    return pattern, helpers.contents(folder / "out")


def wait_for_receipts(process, output, count):
    """Waits until `count` shards are committed; tells what the job said if it ends before that."""
    deadline = time.monotonic() + 600
    while len(list(output.glob("receipts/*.json"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def uber(cluster):
    """The flags of the Kubernetes submission, for this cluster."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / "submission.yaml").read_text())
    (container,) = next(documents)["spec"]["template"]["spec"]["containers"]
    here = dict(flag.partition("=")[::2] for flag in cluster.flags)
    own = {"--precision", "--model", "--batch_size"}
    flags = [flag.partition("=") for flag in container["args"] if flag.partition("=")[0] not in own]
    assert {name for name, _, _ in flags} - set(here) == {"--flink_submit_uber_jar"}
    return [f"{name}{sign}{here.get(name, value)}" for name, sign, value in flags]


@pytest.mark.parametrize(
    ("number", "uploads"),
    [(signal.SIGTERM, False), pytest.param(signal.SIGINT, True, marks=pytest.mark.soak)],
)
def test_a_signal_cancels_the_job_on_the_cluster(tmp_path, cluster, launch, undisturbed, number, uploads):
    flags = uber(cluster) if uploads else cluster.flags
    output = tmp_path / "out"
    process = launch(*LONG_FLAGS, f"--input={undisturbed[0]}", f"--output={output}", cluster_flags=flags)
    wait_for_receipts(process, output, 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (1, "")
    assert f"stopped by {number.name}" in err.splitlines()[-1]
    deadline = time.monotonic() + 300
    while cluster.jobs()[0]["state"] in ("RUNNING", "CANCELLING") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert cluster.jobs()[0]["state"] == "CANCELED"
    assert not (output / "manifest.json").exists()


def test_undisturbed_jobs_lose_no_worker_and_give_the_bytes_of_direct_runner(tmp_path, cluster, launch):
    """Shards of very different sizes: one TaskManager is done long before the other, and stops its worker."""
    pattern = helpers.write_shards(tmp_path / "in", (1, 24, 1, 24))
    helpers.job(*LONG_FLAGS, f"--input={pattern}", output=tmp_path / "direct")
    before = list(map(len, cluster.workers_started()))
    assert len(before) == 2
    for name, submission in (("submitted", cluster.flags), ("uploaded", uber(cluster))):
        output = tmp_path / name
        process = launch(*LONG_FLAGS, f"--input={pattern}", f"--output={output}", cluster_flags=submission)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        job = cluster.jobs()[0]
        assert (job["state"], job["name"]) == ("FINISHED", flink.job_name(str(output)))
        assert cluster.ask(f"jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"] == []
        assert helpers.contents(output) == helpers.contents(tmp_path / "direct")
    # Each pool has started the workers of its own TaskManager, one per job and stage. Both TaskManagers call them the same.
    names = [started[count:] for started, count in zip(cluster.workers_started(), before, strict=True)]
    assert names == 2 * [2 * ["1-1", "2-1"]]


def test_a_lost_task_manager_costs_no_byte_and_start_brings_it_back(tmp_path, cluster, launch, undisturbed):
    pattern, expected = undisturbed
    before = sum(map(len, cluster.workers_started()))
    output, report = tmp_path / "flink", tmp_path / "report.json"
    process = launch(*LONG_FLAGS, f"--input={pattern}", f"--output={output}", f"--report_file={report}")
    wait_for_receipts(process, output, 2)
    assert sum(map(len, cluster.workers_started())) == before + 2  # both TaskManagers are at work
    committed = {path: path.stat().st_mtime_ns for path in output.glob("receipts/*.json")}
    assert len(committed) < len(LONG)
    cluster.kill("taskmanager-1")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert sum(map(len, cluster.workers_started())) > before + 2
    assert cluster.jobs()[0]["state"] == "FINISHED"
    assert helpers.contents(output) == expected
    assert {path: os.stat(path).st_mtime_ns for path in committed} == committed
    summary = json.loads(report.read_text())
    assert summary["features"] == sum(LONG)
    # What the lost worker counted is missing, and what was repeated counts again: the metrics are no account of results.
    assert summary["counters"]["out-features"] > 0
    if summary["verdict"]:  # there is none if less than two seconds are left
        assert summary["verdict"]["stage"] in summary["stage_seconds"]

    others = {name: cluster.pid(name) for name in ("jobmanager", "taskmanager-2", "workers-1", "workers-2")}
    lost = cluster.pid("taskmanager-1")
    assert "Starting what has ended: taskmanager-1\n" in cluster.start()
    assert {name: cluster.pid(name) for name in others} == others
    assert cluster.pid("taskmanager-1") != lost
    assert {manager["id"] for manager in cluster.ask("taskmanagers")["taskmanagers"]} == {
        "taskmanager-1",
        "taskmanager-2",
    }


def at_work(cluster):
    """A worker that decodes: one that has processes of its own."""
    while True:
        for worker in cluster.workers():
            with contextlib.suppress(OSError):
                if any(path.read_text() for path in Path(f"/proc/{worker}/task").glob("*/children")):
                    return worker
        time.sleep(0.05)


def restarts(cluster):
    """How often the newest job was started again."""
    job = cluster.jobs()[0]
    return len(cluster.ask(f"jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"])


@pytest.mark.parametrize("lost", [2, pytest.param(5, marks=pytest.mark.soak)])
def test_lost_workers_do_not_end_a_job(tmp_path, cluster, launch, undisturbed, lost):
    pattern, expected = undisturbed
    process = launch(*LONG_FLAGS, f"--input={pattern}", f"--output={tmp_path / 'out'}")
    while not cluster.workers():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.kill(min(cluster.workers()), signal.SIGKILL)  # before it is connected: its pool starts it again
    output = tmp_path / "out"
    for count in range(1, lost):
        wait_for_receipts(process, output, len(list(output.glob("receipts/*.json"))) + 1)
        os.kill(at_work(cluster), signal.SIGKILL)
        deadline = time.monotonic() + 300
        while restarts(cluster) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert helpers.contents(output) == expected


def test_a_job_whose_launcher_was_killed_is_waited_for(tmp_path, cluster, launch, offspring, undisturbed):
    pattern, expected = undisturbed
    flags = [*LONG_FLAGS, f"--input={pattern}", f"--output={tmp_path / 'out'}"]
    process = launch(*flags)
    wait_for_receipts(process, tmp_path / "out", 1)
    jobs = cluster.jobs()
    assert any("-jar" in command for command in offspring.alive().values())
    process.kill()
    process.communicate()
    assert not offspring.left(30)  # the job server in Java
    assert cluster.jobs()[0]["state"] == "RUNNING"
    process = launch(*flags)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert (
        f"Flink job {jobs[0]['jid']} on http://{cluster.address} has been writing to this output since" in err
    )
    assert [job["jid"] for job in cluster.jobs()] == [job["jid"] for job in jobs]  # nothing was left to do
    assert cluster.jobs()[0]["state"] == "FINISHED"
    assert helpers.contents(tmp_path / "out") == expected


@pytest.mark.parametrize("uploads", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_lost_job_manager_ends_the_command_with_a_sentence(tmp_path, cluster, launch, undisturbed, uploads):
    """What the same command makes of it afterwards: tests/chaos."""
    submission = uber(cluster) if uploads else cluster.flags
    flags = [*LONG_FLAGS, f"--input={undisturbed[0]}", f"--output={tmp_path / 'out'}"]
    process = launch(*flags, cluster_flags=submission)
    wait_for_receipts(process, tmp_path / "out", 1)
    cluster.kill("jobmanager")
    _, err = process.communicate(timeout=600)
    said = cluster.start()  # whatever came of it, as other tests need it
    assert process.returncode == 1, err
    *others, last = err.splitlines()
    assert last.startswith(f"error: JobLost: the JobManager at http://{cluster.address} is gone")
    assert "run the same command again" in last
    assert not [line for line in others if "xception" in line or line.startswith(("error", "\t"))], err

    assert "Starting what has ended: jobmanager\n" in said


def test_start_leaves_a_cluster_alone_that_runs(cluster):
    names = ("jobmanager", "taskmanager-1", "taskmanager-2", "workers-1", "workers-2")
    before = [cluster.pid(name) for name in names]
    assert "Flink is running at" in cluster.start()
    assert [cluster.pid(name) for name in names] == before
    other = engines.replace(cluster, environment={**cluster.environment, "TASK_MANAGERS": "3"}).run("start")
    assert other.returncode == 2
    assert "with other settings" in other.stderr


@pytest.fixture(scope="module")
def s3():
    with stores.s3() as store:
        yield store


def test_flags_for_s3_reach_the_workers_of_a_cluster(tmp_path, cluster, launch, s3):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    helpers.job(f"--input={pattern}", "--batch_size=2", output=tmp_path / "out")
    s3.use()
    inputs, output = s3.folder(), s3.folder()
    stores.upload(inputs, {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()})
    process = launch(*helpers.TINY, *s3.flags, "--batch_size=2", f"--input={inputs}/*", f"--output={output}")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert cluster.jobs()[0]["state"] == "FINISHED"
    assert "=secret" not in err
    written = stores.contents(output)
    expected = helpers.contents(tmp_path / "out")
    # A key is the input's URI and the record's number.
    assert set(written) == set(expected)
    job = f"{output}-here"
    assert main([*helpers.TINY, *s3.flags, "--batch_size=2", f"--input={inputs}/*", f"--output={job}"]) == 0
    assert stores.contents(job) == written


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


def test_a_pool_that_was_told_another_store_refuses(tmp_path, embedded, offspring, s3):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    elsewhere = "http://127.0.0.1:9"
    with worker_pool(AWS_ENDPOINT_URL=elsewhere) as port:
        done = helpers.job_process(
            *helpers.TINY,
            *embedded,
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{port}",
            f"--input={pattern}",
            f"--output={s3.folder()}",
            *s3.flags[1:],
            expect=1,
            env={**offspring.environment, "AWS_ENDPOINT_URL": s3.flags[0].partition("=")[2]},
        )
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"at {elsewhere}, the launcher at " in error
    assert "set AWS_ENDPOINT_URL to the same on both" in error
