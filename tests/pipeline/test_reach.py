"""A host that does not answer is reported at once, by the name of its flag, and nothing is started."""

import importlib
import re
import socket

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import reach
from pipeline.main import main
from tests import engines, helpers
from transforms.fetching.settings import FetchSettings
from transforms.storage import door


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def endpoints(*flags, runner="FnApiRunner", paths=()):
    return [
        (endpoint.host, endpoint.port, endpoint.named_by)
        for endpoint in reach.endpoints(PipelineOptions(flags), runner, paths)
    ]


def test_each_host_of_a_request_is_known_once():
    paths = ("gs://b/in", "gs://b/out", "s3://b/model", "/disk", "s3.txt")
    google = ("storage.googleapis.com", 443, "gs://b/in")
    assert endpoints(paths=paths) == [google]
    flags = ("--s3_endpoint_url=http://store:9000", "--flink_master=flink:8081")
    assert endpoints(*flags, paths=paths) == [google, ("store", 9000, "s3://b/model")]
    master = ("flink", 8081, "--flink_master=flink:8081")
    assert endpoints(*flags, runner="FlinkRunner", paths=paths)[0] == master
    assert endpoints("--flink_master=https://flink", runner="FlinkRunner")[0][:2] == ("flink", 443)
    assert endpoints("--flink_master=[local]", runner="FlinkRunner") == []
    assert endpoints("--job_endpoint=embed", runner="PortableRunner") == []
    assert endpoints("--job_endpoint=a:1", "--artifact_endpoint=a:2", runner="SparkRunner") == [
        ("a", 1, "--job_endpoint=a:1"),
        ("a", 2, "--artifact_endpoint=a:2"),
    ]


def test_what_goes_through_a_proxy_is_left_out(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert endpoints(paths=("gs://b/in",)) == []
    monkeypatch.setenv("no_proxy", ".googleapis.com")
    assert endpoints(paths=("gs://b/in",))[0][:2] == ("storage.googleapis.com", 443)


@pytest.mark.parametrize(
    ("variable", "value", "flag", "refused"),
    [
        ("HTTPS_PROXY", "socks5://u:SECRET@proxy:1080", "--output=gs://b/out", True),
        ("https_proxy", "socks5h://proxy", "--output=gs://b/out", True),
        ("ALL_PROXY", "SOCKS4://proxy", "--output=gs://b/out", True),
        ("all_proxy", "socks5://proxy", "--trust_env_proxies", True),
        ("http_proxy", "socks5://proxy", "--trust_env_proxies", True),
        ("http_proxy", "ftp://proxy", "--trust_env_proxies", True),
        ("http_proxy", "http://", "--trust_env_proxies", True),
        ("all_proxy", "socks5://proxy", "--batch_size=1", False),
        ("http_proxy", "proxy:3128", "--trust_env_proxies", False),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable(
    tmp_path, capsys, monkeypatch, variable, value, flag, refused
):
    monkeypatch.setenv(variable, value)
    command = [*helpers.TINY, f"--input={tmp_path}/none", f"--output={tmp_path / 'out'}", flag]
    assert main(command) == 2
    text = capsys.readouterr().err
    assert (f": {variable} " in text and "http://HOST:PORT" in text) is refused
    assert "SECRET" not in text


def test_no_proxy_spares_a_store(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://proxy")
    monkeypatch.setenv("no_proxy", "storage.googleapis.com")
    reach._check_proxies(PipelineOptions([]), ["gs://b/in"], FetchSettings())


@pytest.mark.parametrize(
    "flags",
    [
        ("--runner=PortableRunner", "--job_endpoint=localhost:{}"),
        ("--runner=FlinkRunner", "--flink_master=localhost:{}", "--flink_job_server_jar=none.jar"),
    ],
)
def test_a_missing_engine_is_reported_at_once(tmp_path, capsys, flags):
    (port,) = engines.free_ports(1)
    flags = [flag.format(port) for flag in flags]
    pattern = helpers.write_shards(tmp_path / "in", (1,))
    command = [*helpers.TINY, *flags, f"--input={pattern}", f"--output={tmp_path / 'out'}"]
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Unreachable: {flags[1]}: localhost:{port} cannot be reached (")
    assert not (tmp_path / "out").exists()


def test_a_missing_store_is_reported_at_once(tmp_path, capsys, monkeypatch):
    (port,) = engines.free_ports(1)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    pattern = helpers.write_shards(tmp_path / "in", (1,))
    assert main([*helpers.TINY, f"--input={pattern}", "--output=gs://bucket/out"]) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"error: Unreachable: gs://bucket/out: localhost:{port} cannot be reached (")


OVER_OUTPUT = {
    "pipeline.verify": (),
    "pipeline.evaluate": ("--label=label",),
    "pipeline.fewshot": ("--label=label",),
    "pipeline.duplicates": ("--to={}/to.parquet",),
    "pipeline.look.command": ("--to={}/to.html",),
    "pipeline.export": ("--to={}/to", "--format=npy"),
}


@pytest.mark.parametrize("module", OVER_OUTPUT)
@pytest.mark.parametrize("place", ["gs://bucket/out", "s3://bucket/out"])
def test_commands_over_an_output_report_it_in_the_same_way(tmp_path, capsys, monkeypatch, module, place):
    flags = [place, *(flag.format(tmp_path) for flag in OVER_OUTPUT[module])]
    is_reported_at_once(module, flags, place, capsys, monkeypatch)


@pytest.mark.parametrize("flag", ["--input=gs://bucket/in/*", "--validation=s3://bucket/in,/none"])
def test_so_does_training(tmp_path, capsys, monkeypatch, flag):
    required = ["--input=/none", "--model=untrained/tiny", f"--output={tmp_path / 'out'}"]
    place = flag.partition("=")[2].partition(",")[0]
    is_reported_at_once("pipeline.finetune.__main__", [*required, flag], place, capsys, monkeypatch)
    assert not (tmp_path / "out").exists()


def is_reported_at_once(module, flags, place, capsys, monkeypatch):
    """Whether a command ends with one line that names the store of `place`, which is not asked for anything."""
    (port,) = engines.free_ports(1)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    monkeypatch.setattr(door, "match", None)
    if place.startswith("s3"):
        flags = [*flags, f"--s3_endpoint_url=http://localhost:{port}"]
    assert importlib.import_module(module).main(flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    expected = rf"error: (Unreachable: )?{re.escape(place)}: localhost:{port} cannot be reached \(.*, so nothing was started: .*"
    assert re.fullmatch(expected, line)


def test_a_host_that_keeps_silent_is_named_while_it_is_waited_for(capsys, monkeypatch):
    """With a full backlog the system drops requests for connections."""
    monkeypatch.setattr(reach, "_SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(reach, "_TIMEOUT_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        options = PipelineOptions([f"--job_endpoint=127.0.0.1:{port}"])
        with pytest.raises(reach.Unreachable, match="timed out"):
            reach.check(options, "PortableRunner", (), FetchSettings())
        for connection in waiting:
            connection.close()
    flag = f"--job_endpoint=127.0.0.1:{port}"
    assert capsys.readouterr().err == f"waiting for 127.0.0.1:{port} ({flag})\n"
