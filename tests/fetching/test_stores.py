"""gs:// and s3:// against emulator processes, and against stores that fail."""

import base64
import gzip
import logging
import zlib
from concurrent.futures import ThreadPoolExecutor

import boto3
import google_crc32c
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from google.cloud import storage

from tests.emulators import BUCKET, gcs_emulator, s3_emulator
from tests.http_server import IMAGE, HttpServer, answer, closed_port
from transforms.errors import ItemError
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings

QUICK = {"timeout_seconds": 20, "retries": 2, "backoff_seconds": 0.01, "max_bytes": 1 << 20}


def raw_deflate(data):
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


ENCODED = {  # object -> the bytes that are stored, and their Content-Encoding
    "gzip": (gzip.compress(IMAGE[:9]) + gzip.compress(IMAGE[9:]), "gzip"),
    "twice": (gzip.compress(gzip.compress(IMAGE)), "gzip, gzip"),
    "deflate": (raw_deflate(IMAGE), "deflate"),
    "zlib": (zlib.compress(IMAGE), "deflate"),
    "chunked": (IMAGE, "aws-chunked"),
    "charset": (IMAGE, "utf-8"),
    "empty": (b"", "gzip"),
    "bomb": (gzip.compress(bytes(64 << 20)), "gzip"),
    "not-gzip": (IMAGE, "gzip"),
    "brotli": (IMAGE, "br"),
    "cut": (gzip.compress(IMAGE)[:-20], "gzip"),
}


def checksums(data):
    return {
        "x-goog-hash": "crc32c=" + base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
        "x-amz-checksum-crc32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode(),
    }


class FailingStore(HttpServer):
    """An object store whose object names say how reading them fails; serves reads of both APIs."""

    async def _do_download(self, ask):
        await self._object(ask, ask.target.partition("?")[0].rpartition("/")[2])

    async def _do_pictures(self, ask):
        await self._object(ask, ask.target.partition("?")[0].rpartition("/")[2])

    async def _object(self, ask, name):
        times = sum(count for target, count in self.requests.items() if f"/{name}" in target)
        checksum = checksums(IMAGE)
        good = answer(**checksum)
        if name.startswith("flaky-") and times <= 2:
            ask.writer.write(answer(b"", f"{name[6:]} Later"))
        elif name.startswith("status-"):
            ask.writer.write(answer(b"", f"{name[7:]} Never"))
        elif name == "truncated":
            ask.writer.write(good[:-1000])
            return ask.writer.close()
        elif name == "corrupt":
            ask.writer.write(answer(IMAGE[::-1], **checksum))
        elif name == "silent":
            await ask.reader.read()
        elif name in ENCODED:
            body, encoding = ENCODED[name]
            ask.writer.write(answer(body, Content_Encoding=encoding, **checksums(body)))
        else:
            ask.writer.write(good)


@pytest.fixture(scope="module")
def gcs():
    with gcs_emulator() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def s3():
    with s3_emulator() as endpoint:
        boto3.client("s3", **s3_login(endpoint)).create_bucket(Bucket=BUCKET)
        yield endpoint


@pytest.fixture(scope="module")
def failing():
    with FailingStore() as server:
        yield server


@pytest.fixture
def use(monkeypatch):
    """A function that points both schemes to an endpoint and creates a fetcher."""
    fetchers = []

    def use(endpoint, **settings):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        login = ("--s3_access_key_id=testing", "--s3_secret_access_key=testing", "--s3_region_name=us-east-1")
        FileSystems.set_options(PipelineOptions([f"--s3_endpoint_url={endpoint}", *login]))
        fetchers.append(Fetcher(FetchSettings(**{**QUICK, **settings})))
        return fetchers[-1]

    yield use
    FileSystems.set_options(PipelineOptions([]))
    for fetcher in fetchers:
        fetcher.close()


def s3_login(endpoint):
    return {
        "endpoint_url": endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
    }


def code_of(fetcher, uri):
    with pytest.raises(ItemError) as raised:
        fetcher.fetch(uri)
    assert type(raised.value) is ItemError
    return raised.value.code


NAME = "a folder/ünï?c#o%2Fde.jpg"


def test_gcs_emulator(use, gcs, caplog):
    fetcher = use(gcs, max_bytes=len(IMAGE))
    bucket = storage.Client(project=None).bucket(BUCKET)
    bucket.blob(NAME).upload_from_string(IMAGE)
    bucket.blob("big").upload_from_string(IMAGE + b"x")
    bucket.blob("empty").upload_from_string(b"")
    assert fetcher.fetch(f"gs://{BUCKET}/{NAME}") == IMAGE
    assert fetcher.fetch(f"gs://{BUCKET}/empty") == b""
    assert code_of(fetcher, f"gs://{BUCKET}/big") == "too_large"
    assert code_of(fetcher, f"gs://{BUCKET}/missing") == "not_found"
    assert code_of(fetcher, "gs://no-such-bucket/missing") == "not_found"
    caplog.set_level(logging.WARNING)
    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(fetcher.fetch, [f"gs://{BUCKET}/{NAME}"] * 200)) == {IMAGE}
    assert caplog.text == ""


def test_s3_emulator(use, s3, caplog):
    fetcher = use(s3, max_bytes=len(IMAGE))
    client = boto3.client("s3", **s3_login(s3))
    for key, body in ((NAME, IMAGE), ("big", IMAGE + b"x"), ("empty", b"")):
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    assert fetcher.fetch(f"s3://{BUCKET}/{NAME}") == IMAGE
    assert fetcher.fetch(f"s3://{BUCKET}/empty") == b""
    assert code_of(fetcher, f"s3://{BUCKET}/big") == "too_large"
    assert code_of(fetcher, f"s3://{BUCKET}/missing") == "not_found"
    assert code_of(fetcher, "s3://no-such-bucket/missing") == "not_found"
    assert code_of(fetcher, "s3://no such bucket/missing") == "bad_uri"
    caplog.set_level(logging.WARNING)
    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(fetcher.fetch, [f"s3://{BUCKET}/{NAME}"] * 200)) == {IMAGE}
    assert caplog.text == ""


@pytest.mark.parametrize("scheme", ["gs", "s3"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("status-401", "forbidden"),
        ("status-403", "forbidden"),
        ("status-404", "not_found"),
        ("status-410", "not_found"),
        ("status-400", "http_4xx"),
        ("status-429", "http_4xx"),
        ("status-500", "http_5xx"),
        ("truncated", "truncated"),
        ("corrupt", "truncated"),
    ],
)
def test_a_store_that_fails(use, failing, scheme, name, code):
    assert code_of(use(failing.url("")), f"{scheme}://{BUCKET}/{name}") == code


@pytest.mark.parametrize("scheme", ["gs", "s3"])
@pytest.mark.parametrize(
    ("name", "outcome"),
    [(name, IMAGE) for name in ("gzip", "twice", "deflate", "zlib", "chunked", "charset")]
    + [("empty", b""), ("bomb", "too_large"), ("not-gzip", "bad_response"), ("brotli", "bad_response"),
       ("cut", "truncated")],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)  # fmt: skip
def test_objects_that_are_stored_encoded(use, failing, scheme, name, outcome):
    fetcher = use(failing.url(""))
    if isinstance(outcome, bytes):
        assert fetcher.fetch(f"{scheme}://{BUCKET}/{name}") == outcome
    else:
        assert code_of(fetcher, f"{scheme}://{BUCKET}/{name}") == outcome


def test_the_limit_of_an_encoded_object_is_exact(use, failing):
    assert use(failing.url(""), max_bytes=len(IMAGE)).fetch(f"s3://{BUCKET}/gzip") == IMAGE
    assert code_of(use(failing.url(""), max_bytes=len(IMAGE) - 1), f"gs://{BUCKET}/gzip") == "too_large"


def test_s3_keeps_an_encoding(use, s3):
    client = boto3.client("s3", **s3_login(s3))
    client.put_object(Bucket=BUCKET, Key="packed", Body=gzip.compress(IMAGE), ContentEncoding="gzip")
    assert use(s3).fetch(f"s3://{BUCKET}/packed") == IMAGE


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_status_of_a_store_is_kept_as_a_number(use, failing, scheme):
    fetcher = use(failing.url(""))
    for name, status in (("status-403", 403), ("status-503", 503), ("corrupt", None)):
        with pytest.raises(ItemError) as raised:
            fetcher.fetch(f"{scheme}://{BUCKET}/{name}")
        assert raised.value.http_status == status


@pytest.mark.parametrize("scheme", ["gs", "s3"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_store_that_recovers(use, scheme, status):
    with FailingStore() as server:
        fetcher = use(server.url(""))
        assert fetcher.fetch(f"{scheme}://{BUCKET}/flaky-{status}") == IMAGE
        assert sum(server.requests.values()) == 3
        assert fetcher.fetch(f"{scheme}://{BUCKET}/fine") == IMAGE
        assert sum(server.requests.values()) == 4
        assert server.accepted == 1


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_store_that_does_not_answer(use, failing, scheme):
    assert code_of(use(failing.url(""), timeout_seconds=0.6), f"{scheme}://{BUCKET}/silent") == "timeout"
    nobody = f"http://127.0.0.1:{closed_port()}"
    assert code_of(use(nobody), f"{scheme}://{BUCKET}/fine") == "connect"


def test_a_compressed_object_cannot_grow_past_the_limit(use, failing):
    assert code_of(use(failing.url("")), f"gs://{BUCKET}/bomb") == "too_large"


@pytest.mark.parametrize(
    "uri", ["gs://bucket", "gs://bucket/", "gs:///object", "gs://-x-/o", "s3://bucket", "s3:///key"]
)
def test_a_uri_that_names_no_object(use, failing, uri):
    assert code_of(use(failing.url("")), uri) == "bad_uri"


def test_public_objects_need_no_credentials(monkeypatch, failing, tmp_path):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", failing.url(""))
    fetcher = Fetcher(FetchSettings(**QUICK))
    assert fetcher.fetch(f"gs://{BUCKET}/fine") == IMAGE
    with pytest.raises(ItemError, match="403; this worker has no Google credentials"):
        fetcher.fetch(f"gs://{BUCKET}/status-403")
    fetcher.close()
