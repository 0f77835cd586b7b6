"""The jobs of an output on a Flink cluster, as a made-up JobManager tells of them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions

from pipeline import export, export_plan, flink, run, runners
from pipeline.main import main
from tests import helpers

OUTPUT = "gs://bucket/features"
NAME = flink.job_name(OUTPUT)


class JobManager(ThreadingHTTPServer):
    """Answers as Flink's; `jobs` are (id, name, state), the oldest first. A canceled job is over at once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: list[tuple[str, str, str]] = []
        self.canceled: list[str] = []
        self.asked = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        assert self.path == "/jobs/overview"
        fields = ("jid", "name", "state")
        jobs = [
            {**dict(zip(fields, job, strict=True)), "start-time": 1000 * index}
            for index, job in enumerate(self.server.jobs)
        ]
        self.answer(200, {"jobs": jobs})

    def do_PATCH(self):
        job_id = self.path.removeprefix("/jobs/").removesuffix("?mode=cancel")
        self.server.canceled.append(job_id)
        self.server.jobs = [
            (job, name, "CANCELED" if job == job_id else state) for job, name, state in self.server.jobs
        ]
        self.answer(202, {})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def manager():
    with JobManager() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def of(manager, runner="FlinkRunner", output=OUTPUT, *flags):
    options = PipelineOptions([f"--flink_master={manager.address}", *flags])
    runners.name_job(options, runner, output)
    return runners.on_flink(options, runner)


def test_a_name_belongs_to_one_folder_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flink.job_name("features") == flink.job_name(str(tmp_path / "features"))
    names = {flink.job_name(f) for f in ("features", "a/features", OUTPUT, "s3://bucket/features")}
    assert len(names) == 4
    assert all(name.startswith("bit-features-features-") for name in names)
    assert flink.job_name("out put ä") != flink.job_name("out put ö")
    assert flink.job_name("/", "mine").startswith("mine-")


def test_a_name_of_the_users_own_stays_in_front():
    options = PipelineOptions(["--job_name=weekly"])
    runners.name_job(options, "FlinkRunner", OUTPUT)
    assert options.view_as(GoogleCloudOptions).job_name == NAME.replace("bit-features-", "weekly-", 1)
    for runner in ("DataflowRunner", "SparkRunner", "FnApiRunner"):
        options = PipelineOptions([])
        runners.name_job(options, runner, OUTPUT)
        assert options.view_as(GoogleCloudOptions).job_name is None


def test_only_a_cluster_is_asked(manager):
    assert of(manager, "SparkRunner") is None
    for master in ("[local]", "[auto]", "[collection]"):
        assert runners.on_flink(PipelineOptions([f"--flink_master={master}"]), "FlinkRunner") is None
    options = PipelineOptions(["--flink_master=https://flink/"])
    assert runners.on_flink(options, "flinkrunner").url == "https://flink"


def test_only_jobs_of_this_output_that_run_are_found_and_canceled(manager):
    manager.jobs = [
        ("a", NAME, "FINISHED"),
        ("b", NAME, "RUNNING"),
        ("c", "bit-features-features-000000000000", "RUNNING"),
        ("d", NAME, "RESTARTING"),
        ("e", NAME, "FAILED"),
    ]
    jobs = of(manager)
    assert [job.id for job in jobs.running()] == ["d", "b"]
    jobs.end(10)
    assert manager.canceled == ["d", "b"]
    assert jobs.running() == []


def test_a_job_that_does_not_end_is_named(manager, monkeypatch):
    manager.jobs = [("b", NAME, "RUNNING")]
    monkeypatch.setattr(Handler, "do_PATCH", lambda handler: handler.answer(202, {}))
    with pytest.raises(TimeoutError, match="job b on http://127"):
        of(manager).end(0.1)


@pytest.mark.parametrize(
    ("jobs", "said", "expected"),
    [
        ([("a", NAME, "FAILED")], "ConnectException", None),  # what failed it is what was said
        ([("a", NAME, "FINISHED")], "", None),
        ([], "the job server did not accept the graph", None),
        (
            [],
            "java.util.concurrent.CompletionException: Could not find Flink job (0)",
            "no longer knows the job",
        ),
        ([], "Request to http://x/v1/jobs/0 failed with status 404: {}", "no longer knows the job"),
        ([("a", NAME, "RUNNING")], "anything", "the connection to job a on http://127"),
        ([("a", NAME, "RESTARTING")], "anything", "it waits for the job"),
    ],
)
def test_what_became_of_a_job(manager, jobs, said, expected):
    manager.jobs = jobs
    lost = of(manager).lost(said)
    assert (lost is None) == (expected is None)
    if expected:
        assert expected in str(lost)
        assert "un the same command again: it" in str(lost)
        assert "\n" not in str(lost)


def test_a_job_manager_that_is_gone(manager):
    jobs = of(manager)
    manager.shutdown()
    manager.server_close()
    text = str(jobs.lost("whatever"))
    assert text.startswith(
        f"the JobManager at http://{manager.address} is gone ([Errno 111] Connection refused)"
    )
    assert "TaskManagers register again by themselves" in text
    assert "run the same command again: it does what is left" in text


@pytest.fixture
def request_of(manager, tmp_path, monkeypatch):
    """A command line for the made-up cluster, which cannot run a job: what is submitted runs in this process."""
    monkeypatch.setattr(run, "_REST_SECONDS", 0.05)
    output = tmp_path / "out"
    pattern = helpers.write_shards(tmp_path / "in", (2, 3))
    name = flink.job_name(str(output))

    def flags(*more):
        flags = ["--runner=FlinkRunner", f"--flink_master={manager.address}", f"--input={pattern}"]
        return [*flags, *helpers.TINY, f"--output={output}", *more]

    here = run.follow

    def submitted(define, progress, paths, options, runner):
        if runner == runners.LOCAL:
            return here(define, progress, paths, options, runner)
        assert options.view_as(FlinkRunnerOptions).flink_master == manager.address
        manager.jobs.append(("new", name, "FINISHED"))
        return helpers.job(f"--input={pattern}", output=output)

    monkeypatch.setattr(run, "follow", submitted)
    return flags, output, name


def test_a_job_that_still_runs_is_waited_for_and_then_what_is_left_is_done(manager, request_of, capsys):
    flags, output, name = request_of
    manager.jobs = [("old", name, "RUNNING")]

    def end():
        manager.jobs = [("old", name, "FAILED")]

    threading.Timer(1.0, end).start()
    assert main(flags()) == 0
    said = capsys.readouterr().err
    assert f"Flink job old on http://{manager.address} has been writing to this output since 19" in said
    assert said.index("waiting for its end") < said.index("2 of 2 shards to do with FlinkRunner")
    assert [job for job, _, _ in manager.jobs] == ["old", "new"]
    assert manager.canceled == []
    assert helpers.manifest(output)["features"] == 5


def test_a_finished_output_of_a_job_that_was_waited_for_needs_no_further_one(manager, request_of, capsys):
    flags, output, name = request_of
    manager.jobs = [("old", name, "RUNNING")]

    def end():
        helpers.job(f"--input={output.parent}/in/*", output=output)
        manager.jobs = [("old", name, "FINISHED")]

    threading.Timer(0.5, end).start()
    assert main(flags()) == 0
    assert "0 of 2 shards to do with FlinkRunner" in capsys.readouterr().err
    assert [job for job, _, _ in manager.jobs] == ["old"]


def test_overwrite_cancels_a_job_that_still_runs(manager, request_of, capsys):
    flags, output, name = request_of
    helpers.job(f"--input={output.parent}/in/*", output=output)
    manager.jobs = [("old", name, "RUNNING")]
    assert main(flags("--overwrite")) == 0
    said = capsys.readouterr().err
    assert manager.canceled == ["old"]
    assert said.index("has been writing to this output") < said.index("--overwrite: canceling it")
    assert "2 of 2 shards to do with FlinkRunner" in said


def test_another_request_is_refused_at_once_and_the_job_is_named(manager, request_of, capsys):
    flags, output, name = request_of
    helpers.job(f"--input={output.parent}/in/*", output=output)
    (output / "receipts" / "00001-of-00002.json").unlink()
    manager.jobs = [("old", name, "RUNNING")]
    assert main(flags("--precision=bfloat16")) == 2
    said = capsys.readouterr().err
    assert "Flink job old on" in said
    assert "precision" in said
    assert (manager.canceled, manager.jobs) == ([], [("old", name, "RUNNING")])


def test_a_dry_run_does_not_wait(manager, request_of):
    flags, _, name = request_of
    manager.jobs = [("old", name, "RUNNING")]
    assert main(flags("--dry_run")) == 0
    assert manager.asked == 0


def test_a_signal_while_waiting_cancels_the_job(manager, request_of, capsys, monkeypatch):
    flags, _, name = request_of
    manager.jobs = [("old", name, "RUNNING")]
    monkeypatch.setattr(run.Signals, "wait", lambda signals, seconds: signals.received.append(15))
    assert main(flags()) == 1
    assert manager.canceled == ["old"]
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_a_job_manager_that_goes_away_while_it_is_waited_for(manager, request_of, capsys, monkeypatch):
    monkeypatch.setattr(flink, "AWAY_SECONDS", 0.2)
    flags, _, name = request_of
    manager.jobs = [("old", name, "RUNNING")]

    def go():
        manager.shutdown()
        manager.server_close()

    threading.Timer(0.5, go).start()
    assert main(flags()) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "is gone" in line


# What a blip is: the handler of one request, and what it is seen as.
def cut_off(handler):
    handler.close_connection = True
    handler.connection.close()


def unavailable(handler):
    handler.answer(503, {"errors": ["Service temporarily unavailable due to an ongoing leader election"]})


def cut_within(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"jobs": [')
    handler.close_connection = True


def no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    handler.close_connection = True


def page(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "6")
    handler.end_headers()
    handler.wfile.write(b"<html>")


def no_list(handler):
    handler.answer(200, {"errors": []})


BLIPS = [cut_off, unavailable, cut_within, no_http, page, no_list, lambda handler: handler.answer(200, [])]


@pytest.fixture
def blip(monkeypatch):
    """Replaces the answer to some of the requests: those whose numbers, from 1, `when` takes."""

    def set_up(answer, when):
        usual = Handler.do_GET

        def get(handler):
            number = handler.server.asked + 1
            if when(number):
                handler.server.asked = number
                answer(handler)
            else:
                usual(handler)

        monkeypatch.setattr(Handler, "do_GET", get)

    return set_up


@pytest.mark.parametrize("answer", BLIPS)
def test_a_blip_of_the_job_manager_does_not_end_the_wait(manager, blip, monkeypatch, capsys, answer):
    monkeypatch.setattr(run, "_REST_SECONDS", 0.01)
    manager.jobs = [("old", NAME, "RUNNING")]
    blip(answer, lambda number: number in (2, 3, 5))
    threading.Timer(0.5, lambda: setattr(manager, "jobs", [("old", NAME, "FINISHED")])).start()
    run.await_end(of(manager))
    assert manager.asked > 6
    assert manager.canceled == []


@pytest.mark.parametrize("answer", BLIPS)
def test_whatever_is_no_answer_raises_one_kind_of_error(manager, blip, answer):
    blip(answer, lambda _: True)
    with pytest.raises(OSError):  # noqa: PT011  # its text is another one for each
        of(manager).running()
    assert "is gone (" in str(of(manager).lost("anything"))


def test_a_job_manager_that_stays_away_ends_the_wait(manager, blip, monkeypatch):
    monkeypatch.setattr(run, "_REST_SECONDS", 0.01)
    monkeypatch.setattr(flink, "AWAY_SECONDS", 0.3)
    manager.jobs = [("old", NAME, "RUNNING")]
    blip(unavailable, lambda number: number > 3)
    with pytest.raises(flink.JobLost, match=r"is gone \(Service Unavailable\)"):
        run.await_end(of(manager))
    assert manager.asked > 5


def test_a_job_manager_that_comes_back_without_the_job_ends_the_wait(manager, blip, monkeypatch):
    monkeypatch.setattr(run, "_REST_SECONDS", 0.01)
    manager.jobs = [("old", NAME, "RUNNING")]

    def restarted(handler):
        manager.jobs = []
        cut_off(handler)

    blip(restarted, lambda number: number == 3)
    run.await_end(of(manager))
    assert manager.asked == 4


@pytest.mark.parametrize("answer", BLIPS)
def test_a_blip_does_not_keep_a_job_from_being_canceled(manager, blip, monkeypatch, answer):
    monkeypatch.setattr(flink, "_REST_SECONDS", 0.01)
    manager.jobs = [("old", NAME, "RUNNING")]
    blip(answer, lambda number: number in (1, 3))  # at the request, and while its end is awaited
    of(manager).end(10)
    assert manager.canceled == ["old"]
    assert manager.asked > 3


def test_a_job_manager_that_is_away_for_good_is_not_asked_for_ever_to_cancel(manager, blip):
    blip(unavailable, lambda _: True)
    with pytest.raises(OSError, match="503"):
        of(manager).cancel(0.0)
    with pytest.raises(OSError, match="503"):
        of(manager).end(0.0)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """The output of a job."""
    folder = tmp_path_factory.mktemp("features")
    helpers.job(f"--input={helpers.write_shards(folder / 'in', (2, 3))}", output=folder / "out")
    return folder / "out"


@pytest.fixture
def export_of(manager, features, tmp_path, monkeypatch):
    """A command line of an export for the made-up cluster, and how another one does the work in this process."""
    monkeypatch.setattr(run, "_REST_SECONDS", 0.05)
    to = tmp_path / "to"
    here = run.follow

    def flags(*more):
        flags = ["--runner=FlinkRunner", f"--flink_master={manager.address}", str(features), f"--to={to}"]
        return [*flags, "--format=parquet", *more]

    def work():
        assert export.main([str(features), f"--to={to}", "--format=parquet"]) == 0

    def submitted(define, progress, paths, options, runner):
        if runner == runners.LOCAL:
            return here(define, progress, paths, options, runner)
        manager.jobs.append(("new", flink.job_name(str(to)), "FINISHED"))
        return here(define, progress, paths, PipelineOptions([]), runners.LOCAL)

    monkeypatch.setattr(run, "follow", submitted)
    return flags, to, flink.job_name(str(to)), work


def begun(to, features, *flags):
    """A folder that an export has begun to write to, without a shard that is done."""
    arguments = export.parse([str(features), f"--to={to}", "--format=parquet", *flags])
    export_plan.enter(export_plan.make(*arguments))


def test_an_export_that_still_runs_is_waited_for_and_then_what_is_left_is_done(
    manager, features, export_of, capsys
):
    flags, to, name, _ = export_of
    begun(to, features)
    manager.jobs = [("old", name, "RUNNING")]

    def end():
        manager.jobs = [("old", name, "FAILED")]

    threading.Timer(0.5, end).start()
    assert export.main(flags()) == 0
    said = capsys.readouterr().err
    assert said.index("Flink job old on") < said.index("waiting for its end")
    assert said.index("waiting for its end") < said.index("2 of 2 shards to export with FlinkRunner")
    assert [job for job, _, _ in manager.jobs] == ["old", "new"]
    assert manager.canceled == []
    assert len(list(to.glob("*.parquet"))) == 2


def test_a_finished_export_that_was_waited_for_needs_no_further_one(manager, features, export_of, capsys):
    flags, to, name, work = export_of
    begun(to, features)
    manager.jobs = [("old", name, "RUNNING")]

    def end():
        work()
        manager.jobs = [("old", name, "FINISHED")]

    threading.Timer(0.2, end).start()
    assert export.main(flags()) == 0
    assert "nothing to do: all shards are exported already" in capsys.readouterr().err
    assert [job for job, _, _ in manager.jobs] == ["old"]
    assert sorted(path.suffix for path in to.iterdir()) == [".parquet", ".parquet"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (("--dtype=float16",), "was made with dtype = 'float32', this asks for 'float16'"),
        (("--format=npy",), "was made with format = 'parquet', this asks for 'npy'"),
        (("--normalize=l2",), "was made with normalize = 'none', this asks for 'l2'"),
    ],
)
def test_another_request_for_the_folder_of_an_export_is_refused_at_once(
    manager, features, export_of, capsys, monkeypatch, other, reason
):
    flags, to, name, _ = export_of
    begun(to, features)
    manager.jobs = [("old", name, "RUNNING")]
    monkeypatch.setattr(run.Signals, "wait", lambda signals, seconds: pytest.fail("it waits"))
    assert export.main(flags(*other)) == 2
    assert reason in capsys.readouterr().err
    assert (manager.canceled, manager.jobs) == ([], [("old", name, "RUNNING")])


def test_a_signal_while_waiting_cancels_the_export(manager, features, export_of, capsys, monkeypatch):
    flags, to, name, _ = export_of
    begun(to, features)
    manager.jobs = [("old", name, "RUNNING")]
    monkeypatch.setattr(run.Signals, "wait", lambda signals, seconds: signals.received.append(15))
    assert export.main(flags()) == 1
    assert manager.canceled == ["old"]
    assert "stopped by SIGTERM: 0 of 2 shards exported" in capsys.readouterr().err
