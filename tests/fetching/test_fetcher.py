"""Fetcher: settings, schemes and local files."""

import os
import pickle
import re
import threading
from pathlib import Path

import pytest
from apache_beam.io.localfilesystem import LocalFileSystem

from pipeline.flags import parser
from tests.http_server import HttpServer
from transforms.errors import ItemError
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings


@pytest.fixture
def fetcher():
    fetcher = Fetcher(FetchSettings(max_bytes=1000))
    yield fetcher
    fetcher.close()


def code_of(fetcher, uri):
    with pytest.raises(ItemError) as raised:
        fetcher.fetch(uri)
    return raised.value.code


def test_settings_travel():
    settings = FetchSettings(per_host=3, allow_private_networks=("10.0.0.0/8",))
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"retries": -1}, "retries must not be negative, got -1"),
        ({"allow_private_networks": ("10.0.0.1/8",)}, "takes CIDRs like 10.0.0.0/8, got '10.0.0.1/8'"),
        ({"user_agent_contact": "me\r\nX-Evil: 1"}, "must be printable ASCII"),
    ],
)
def test_settings_refuse_nonsense(wrong, message):
    with pytest.raises(ValueError, match=message):
        FetchSettings(**wrong)


def test_local_files(fetcher, tmp_path):
    path = tmp_path / "a b%20?#é.jpg"
    path.write_bytes(b"pixels")
    assert fetcher.fetch(str(path)) == b"pixels"
    assert fetcher.fetch(path.as_uri()) == b"pixels"
    assert fetcher.fetch(path.as_uri().replace("file://", "file://localhost")) == b"pixels"
    (tmp_path / "link").symlink_to(path)
    assert fetcher.fetch(str(tmp_path / "link")) == b"pixels"
    (tmp_path / "empty").touch()
    assert fetcher.fetch(str(tmp_path / "empty")) == b""


def test_a_local_file_keeps_its_bytes_whatever_its_name(fetcher, tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"not gzip")
    assert fetcher.fetch(str(path)) == b"not gzip"


def test_local_failures(fetcher, tmp_path):
    assert code_of(fetcher, str(tmp_path / "missing")) == "not_found"
    assert code_of(fetcher, "file://otherhost/a.jpg") == "bad_uri"
    assert code_of(fetcher, "a\0b") == "bad_uri"
    assert code_of(fetcher, "") == "not_found"
    assert code_of(fetcher, str(tmp_path)) == "not_a_file"
    assert code_of(fetcher, "/dev/zero") == "not_a_file"
    (tmp_path / "big").write_bytes(bytes(1001))
    assert code_of(fetcher, str(tmp_path / "big")) == "too_large"
    (tmp_path / "fits").write_bytes(bytes(1000))
    assert len(fetcher.fetch(str(tmp_path / "fits"))) == 1000
    assert code_of(fetcher, str(tmp_path / "fits" / "below")) == "not_found"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert code_of(fetcher, str(tmp_path / "loop")) == "read_error"


def test_a_pipe_does_not_hang(fetcher, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert code_of(fetcher, str(tmp_path / "pipe")) == "not_a_file"


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/hostname",
        "file:///etc/hostname",
        "FILE:/etc/hostname",
        "s3://b/k",
        "data:image/png,x",
        "x-y://z",
    ],
)
def test_schemes_can_be_forbidden(uri):
    fetcher = Fetcher(FetchSettings(uri_schemes=("https", "gs")))
    assert code_of(fetcher, uri) == "scheme_not_allowed"
    fetcher.close()


class FolderFileSystem(LocalFileSystem):
    """folder://PATH, like a file system that a user provides."""

    @classmethod
    def scheme(cls):
        return "folder"

    def open(self, path, *args, **kwargs):
        return super().open(path.removeprefix("folder://"), *args, **kwargs)

    def exists(self, path):
        return super().exists(path.removeprefix("folder://"))

    def metadata(self, path):
        return super().metadata(path.removeprefix("folder://"))


def test_other_schemes_go_through_beam(tmp_path):
    fetcher = Fetcher(FetchSettings(max_bytes=6, uri_schemes=("folder",), backoff_seconds=0.01))
    (tmp_path / "a.gz").write_bytes(b"pixels")
    (tmp_path / "big").write_bytes(b"pixels!")
    assert fetcher.fetch(f"folder://{tmp_path}/a.gz") == b"pixels"
    assert code_of(fetcher, f"folder://{tmp_path}/big") == "too_large"
    assert code_of(fetcher, f"folder://{tmp_path}/missing") == "not_found"
    assert code_of(fetcher, f"folder://{tmp_path}") == "read_error"
    fetcher.close()


def test_a_scheme_without_a_file_system_is_named():
    fetcher = Fetcher(FetchSettings(uri_schemes=("nosuch",)))
    assert code_of(fetcher, "nosuch://a/b") == "scheme_not_allowed"
    fetcher.close()


def test_closing_ends_waits_without_blaming_the_image():
    with HttpServer() as server:
        settings = FetchSettings(allow_private_networks=("127.0.0.0/8",), backoff_seconds=20)
        fetcher = Fetcher(settings)
        outcome: list[BaseException] = []

        def fetch():
            try:
                fetcher.fetch(server.url("/status?code=503"))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=fetch)
        thread.start()
        while not server.requests["/status?code=503"]:
            thread.join(0.01)
        fetcher.close()
        thread.join()
        assert [type(error) for error in outcome] == [RuntimeError]
        with pytest.raises(RuntimeError, match="closed"):
            fetcher.fetch(server.url("/image"))


def test_the_docs_list_every_code_and_every_limit():
    root = Path(__file__).parents[2]
    sources = [*root.glob("transforms/fetching/*.py"), *root.glob("transforms/storage/*.py")]
    raised = {
        code
        for source in sources
        for code in re.findall(r'(?:ItemError|TransientError|Fault|kind)\(\s*"(\w+)"', source.read_text())
    }
    text = (root / "docs/fetching.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)`", text.partition("## Codes")[2], re.MULTILINE))
    assert listed == raised | {"http_4xx", "http_5xx"}  # derived from the status
    settings = FetchSettings()
    flags = {
        "timeout_seconds": "--timeout",
        "concurrency": "--fetch_threads",
        "honour_opt_out": "--no_opt_out",
    }
    constants = {
        "max_redirects": f"{settings.max_redirects} redirects",
        "backoff_seconds": f"first retry is {settings.backoff_seconds} s",
    }
    for name, value in vars(settings).items():
        assert f"`{name}`" not in text
        if name in constants:
            assert constants[name] in text
            continue
        flag = flags.get(name, f"--{name}")
        assert f"`{flag}" in text
        if type(value) in (int, float):
            shown = f"{value >> 20} MiB" if name == "max_bytes" else str(value)
            assert f"| `{flag}` | {shown} |" in text


def test_each_flag_that_the_page_names_is_one():
    text = (Path(__file__).parents[2] / "docs/fetching.md").read_text()
    own = {option for action in parser()._actions for option in action.option_strings}
    assert set(re.findall(r"`(--\w+)", text)) - own <= {"--s3_"}
