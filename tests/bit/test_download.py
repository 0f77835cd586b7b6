"""bit.download: complete files or none, from a server that misbehaves in many ways."""

import base64
import contextlib
import errno
import hashlib
import io
import os
import socket
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c
import pytest
import tensorflow as tf

from bit import transfer
from bit.download import WeightsUnreachable, cache_folder, local_path, main
from bit.export import export
from bit.load import load
from bit.models import ARCHITECTURES, UnusableModel, resolve
from bit.weights import Untrained
from tests.places import hollow

CONTENT = hollow("r50x1", size=10_240_000)  # several pieces


def archive_of(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `content` under every path; `cuts` says where each of the first replies breaks off, in bytes."""

    daemon_threads = True

    def __init__(self, content=CONTENT, cuts=(), hashes=(), etag='"1"', ranges=True, status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.hashes = content, list(cuts), list(hashes)
        self.etag, self.ranges, self.status = etag, ranges, status
        self.requests, self.paths, self.agents = [], [], []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        byte_range = self.headers.get("Range")
        server.requests.append(byte_range)
        server.paths.append(self.path)
        server.agents.append(self.headers["User-Agent"])
        start = 0
        if server.status != 200:
            self.send_error(server.status)
            return
        if byte_range and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        for value in server.hashes:
            self.send_header("x-goog-hash", value)
        self.end_headers()
        body = server.content[start:]
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        pass


def md5(content):
    return "md5=" + base64.b64encode(hashlib.md5(content).digest()).decode()


def crc32c(content):
    return "crc32c=" + base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def files(folder):
    paths = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    return [path for path in paths if not path.endswith(".lock")]


def fetch(server, tmp_path, name="a/BiT-M-R50x1.npz"):
    return local_path(resolve(f"{server.url}/{name}"), str(tmp_path))


@pytest.mark.parametrize("hashes", [[], [md5(CONTENT)], [crc32c(CONTENT), md5(CONTENT)], [crc32c(CONTENT)]])
def test_a_file_arrives_whole_and_once(tmp_path, hashes):
    with Server(hashes=hashes) as server:
        path = fetch(server, tmp_path)
        assert fetch(server, tmp_path) == path
        assert server.requests == [None]
    assert files(tmp_path) == [path]
    with open(path, "rb") as file:
        assert file.read() == CONTENT


def test_a_broken_connection_is_taken_up_where_it_stopped(tmp_path):
    with Server(cuts=[5_000_000, 1_000_000], hashes=[md5(CONTENT)]) as server:
        path = fetch(server, tmp_path)
        assert server.requests[0] is None
        assert len(server.requests) == 3
        assert all(byte_range.startswith("bytes=") for byte_range in server.requests[1:])
    with open(path, "rb") as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize("options", [{"ranges": False}, {"etag": ""}])
def test_a_source_without_ranges_is_read_anew(tmp_path, options):
    with Server(cuts=[5_000_000], hashes=[md5(CONTENT)], **options) as server:
        path = fetch(server, tmp_path)
    with open(path, "rb") as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuts": [10_000] * 9}, "the connection broke 4 times"),
        ({"hashes": [md5(b"other")]}, "the md5 of .* the source states .*: damaged on the way"),
        ({"hashes": [crc32c(b"other")]}, "the crc32c of .* the source states .*: damaged on the way"),
        ({"status": 404}, "Not Found"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, options, message):
    with Server(**options) as server, pytest.raises(OSError, match=message) as raised:
        fetch(server, tmp_path)
    reached = "damaged" in message  # then the network is not to blame
    assert isinstance(raised.value, WeightsUnreachable) is not reached
    assert ("pass --model=PATH" in str(raised.value)) is not reached
    assert ("--model=untrained/r50x1" in str(raised.value)) is not reached
    assert [path for path in files(tmp_path) if "partial" not in path] == []
    if "broke" not in message:  # then the next attempt goes on where this one stopped
        assert files(tmp_path) == []


SOMETHING_ELSE = {
    "an error": b'{"error":"quota exceeded"}',
    "nothing": b"",
    "a part": CONTENT[:-1000],
    "another member": hollow("r50x3"),
    "another archive": archive_of({"readme.txt": b"moved"}),
}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        *(("a/BiT-M-R50x1.npz", sent) for sent in SOMETHING_ELSE),
        *(("mine.npz", sent) for sent in SOMETHING_ELSE if sent != "another member"),
        *(("mine.safetensors", sent) for sent in SOMETHING_ELSE),
    ],
)
def test_something_else_is_not_kept(tmp_path, name, sent):
    content = SOMETHING_ELSE[sent]
    with Server(content=content) as server:
        with pytest.raises(OSError, match=r"it has sent something else: ") as raised:
            fetch(server, tmp_path, name)
        assert not isinstance(raised.value, WeightsUnreachable)
        assert "\n" not in str(raised.value)
    assert files(tmp_path) == []


def test_what_a_killed_download_left_is_not_taken(tmp_path):
    with Server() as server:
        partial = tmp_path / f"127.0.0.1:{server.server_port}" / "a" / "BiT-M-R50x1.partial.npz"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(b"half")
        path = fetch(server, tmp_path)
    assert files(tmp_path) == [path]
    with open(path, "rb") as file:
        assert file.read() == CONTENT


def test_concurrent_downloads_fetch_once(tmp_path):
    with Server() as server, ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(server, tmp_path), range(4)))
        assert server.requests == [None]
    assert len(set(paths)) == 1


def test_a_host_that_refuses_is_unreachable_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/BiT-M-R50x1.npz?token=secret"
    with pytest.raises(WeightsUnreachable, match=r"could not be fetched:\n.*: .*refused") as raised:
        local_path(resolve(url), str(tmp_path))
    assert str(raised.value).count("secret") == 0


def test_local_paths_stay_and_other_schemes_are_refused():
    assert local_path(resolve("/data/m.npz")) == "/data/m.npz"
    assert local_path(resolve("/data/module")) == "/data/module"
    assert local_path(resolve("untrained/r101x3")) == ""
    with pytest.raises(UnusableModel, match="gs:// cannot be read directly"):
        local_path(resolve("gs://mine/m.npz"))


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BIT_CACHE_DIR", raising=False)
    assert cache_folder() == str(tmp_path / ".cache" / "bit-features")
    monkeypatch.setenv("BIT_CACHE_DIR", "/cache")
    assert cache_folder() == "/cache"
    assert cache_folder("/mine") == "/mine"


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    """A SavedModel, packed as TF-Hub packs one."""
    folder = tmp_path_factory.mktemp("tarball")
    module = tf.Module()
    module.scale = tf.Variable(2.0)
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    call = tf.function(lambda x: {"embedding": tf.reduce_mean(x, [1, 2]) * module.scale}, [spec])
    tf.saved_model.save(module, str(folder / "m"), signatures=call)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder / "m", ".")
    return packed.getvalue()


def embedding_size(path):
    return load(resolve(path), path, image_size=32, batch_size=1).outputs["embedding"]


def test_tf_hub_is_asked_for_the_archive_with_a_name_that_it_knows(tarball, tmp_path, monkeypatch):
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    with Server(content=tarball) as server:
        path = fetch(server, tmp_path, "google/other/1")
        assert server.paths == ["/google/other/1?tf-hub-format=compressed"]
        assert server.agents == ["bit-features"]
    assert embedding_size(path) == 3


def test_a_refusal_says_what_to_do(tmp_path):
    with Server(status=403) as server, pytest.raises(WeightsUnreachable) as raised:
        fetch(server, tmp_path, "m.tar.gz")
    assert "HTTP 403 Forbidden; 127.0.0.1 serves this to some clients only" in str(raised.value)
    assert "pass --model=PATH" in str(raised.value)


def test_a_tarball_over_http_goes_through_tf_hubs_cache(tarball, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    with Server(content=tarball) as server:
        path = fetch(server, tmp_path, "m.tar.gz")
        requests = len(server.requests)
    assert fetch(server, tmp_path, "m.tar.gz") == path
    assert requests == len(server.requests)
    assert path.startswith(str(tmp_path / "hub"))
    assert embedding_size(path) == 3


def test_an_official_handle_is_taken_from_tf_hubs_cache(tmp_path, monkeypatch):
    handle = "https://tfhub.dev/google/bit/m-r50x1/1"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "ours"))
    folder = str(tmp_path / hashlib.sha1(handle.encode()).hexdigest())  # where TF-Hub keeps what it fetched
    export(Untrained(ARCHITECTURES["r50x1"]), folder, side=32)
    assert local_path(resolve(handle), head=False, offline=True) == folder
    assert local_path(resolve("bit/m-r50x1"), head=False, offline=True) == folder
    extractor = load(resolve(handle), folder, image_size=32, batch_size=1)
    assert extractor.identity["route"] == "folded_saved_model"
    assert extractor.outputs["embedding"] == 2048


def test_a_local_tarball_is_unpacked_once(tarball, tmp_path):
    packed = tmp_path / "m.tar.gz"
    packed.write_bytes(tarball)
    path = local_path(resolve(str(packed)), str(tmp_path / "cache"))
    assert local_path(resolve(str(packed)), str(tmp_path / "cache")) == path
    assert embedding_size(path) == 3


def test_a_cut_tarball_leaves_nothing(tarball, tmp_path):
    packed = tmp_path / "m.tar.gz"
    packed.write_bytes(tarball[: len(tarball) // 2])
    with pytest.raises(UnusableModel, match="cannot be unpacked"):
        local_path(resolve(str(packed)), str(tmp_path / "cache"))
    assert files(tmp_path / "cache") == []


def test_the_command_says_what_happened(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path))
    with Server() as server:
        assert main([f"--model={server.url}/BiT-M-R50x1.npz"]) == 0
    assert main([f"--model={server.url}/BiT-M-R50x3.npz"]) == 3
    assert "could not be fetched" in capsys.readouterr().err
    assert main(["--model=bit/nothing"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("number", "goes_on"), [(errno.ENOLCK, True), (errno.ENOTSUP, True), (errno.EIO, False)]
)
def test_a_disk_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog, number, goes_on):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(transfer.fcntl, "flock", flock)
    expected = contextlib.nullcontext() if goes_on else pytest.raises(OSError, match=os.strerror(number))
    with expected, transfer.locked(str(tmp_path / "cache" / "x.lock")):
        pass
    assert ("x.lock cannot be locked" in caplog.text) == goes_on
