"""S3 only: large uploads in parts, and clients without credentials."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from tests import faulty_proxy, stores
from tests.http_server import HttpServer, answer
from transforms.storage import door, retrying
from transforms.storage.errors import StorageFailed
from transforms.storage.retrying import Limits
from transforms.storage.s3 import S3

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture(scope="module")
def behind_proxy():
    with (
        stores.s3() as store,
        faulty_proxy.in_front_of(store.flags[0].partition("=")[2], seed=1) as (proxy, url),
    ):
        yield replace(store, flags=(f"--s3_endpoint_url={url}", *store.flags[1:])), proxy


@pytest.fixture
def proxy(behind_proxy, monkeypatch):
    store, proxy = behind_proxy
    store.use()
    monkeypatch.setattr(retrying, "LIMITS", Limits(60, 0.01, 0.1))
    yield proxy
    proxy.chosen = lambda method, path: ""


def test_a_part_that_was_refused_is_sent_again_alone(proxy):
    requests: Counter[str] = Counter()

    def refuse_once(method: str, path: str) -> str:
        part = re.search(r"partNumber=\d+", path)
        what = part[0] if part else f"{method} uploads" if "uploads" in path else ""
        requests.update([what] if what else [])
        return "503" if part and requests[what] == 1 else ""

    proxy.chosen = refuse_once
    path, data = f"s3://{stores.BUCKET}/large", bytes(range(256)) * (20 << 12)
    S3.upload(path, io.BytesIO(data))
    assert requests == {"partNumber=1": 2, "partNumber=2": 2, "partNumber=3": 2, "POST uploads": 1}
    assert door.read_bytes(path) == data


def test_a_file_that_was_refused_twice_is_sent_a_third_time(proxy):
    puts = []

    def refuse_twice(method: str, path: str) -> str:
        puts.extend([path] * (method == "PUT"))
        return "503" if method == "PUT" and len(puts) <= 2 else ""

    proxy.chosen = refuse_twice
    stream = door.create(f"s3://{stores.BUCKET}/small")
    stream.write(b"bytes")
    stream.close()
    assert len(puts) == 3
    assert door.read_bytes(f"s3://{stores.BUCKET}/small") == b"bytes"


def test_a_file_that_is_refused_again_and_again_is_given_up(proxy, monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(4, 0.01, 0.1))
    proxy.chosen = lambda method, path: "503" if method == "PUT" else ""
    with pytest.raises(StorageFailed, match=rf"^writing s3://{stores.BUCKET}/x failed"):
        door.write_atomic(f"s3://{stores.BUCKET}/x", b"bytes")


class Private(HttpServer):
    async def _do_b(self, ask):
        ask.writer.write(answer(b"", "403 Forbidden"))


def test_a_stranger_to_a_private_bucket_is_told_how_to_log_in(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with Private() as server:
        FileSystems.set_options(PipelineOptions([f"--s3_endpoint_url={server.url('')}"]))
        with pytest.raises(StorageFailed, match="looking for s3://b/o failed") as refused:
            door.exists("s3://b/o")
        FileSystems.set_options(PipelineOptions([]))
    assert door.explain("s3://b/o", refused.value).startswith("no AWS credentials were found: set ")
