"""Cloud Storage only: what its errors mean and what users are told, generations, and uploads that it forgot."""

from __future__ import annotations

import io
import os

import pytest
import requests
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core import exceptions as google
from google.auth.exceptions import DefaultCredentialsError, TransportError
from google.cloud.storage.exceptions import DataCorruption

from tests import faulty_proxy, stores
from transforms.storage import door, gcs, retrying
from transforms.storage.errors import Changed, CutShort
from transforms.storage.gcs import GCS, GcsStore
from transforms.storage.retrying import Limits
from transforms.storage.sink import Sink

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture(scope="module")
def behind_proxy():
    with (
        stores.gcs() as store,
        faulty_proxy.in_front_of(os.environ["STORAGE_EMULATOR_HOST"]) as (proxy, url),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        yield store, proxy


@pytest.fixture
def store(behind_proxy, monkeypatch):
    store, proxy = behind_proxy
    store.use()
    monkeypatch.setattr(retrying, "LIMITS", Limits(60, 0.01, 0.1))
    yield store
    proxy.chosen = lambda method, path: ""


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        (google.NotFound("x"), "not_found", False),
        (google.Forbidden("x"), "forbidden", False),
        (google.Unauthorized("x"), "forbidden", False),
        (google.TooManyRequests("x"), "http_4xx", True),
        (google.PreconditionFailed("x"), "http_4xx", False),
        (google.ServiceUnavailable("x"), "http_5xx", True),
        (google.MethodNotImplemented("x"), "http_5xx", False),
        (503, "http_5xx", True),
        (google.RetryError("x", None), "timeout", True),
        (TransportError("x"), "connect", True),
        (DefaultCredentialsError("x"), "forbidden", False),
        (DataCorruption(None, "x"), "truncated", True),
        (requests.exceptions.ChunkedEncodingError("x"), "truncated", True),
        (ConnectionResetError("x"), "truncated", True),
        (requests.exceptions.ReadTimeout("x"), "timeout", True),
        (requests.exceptions.ConnectionError("x"), "connect", True),
        (requests.exceptions.InvalidURL("x"), "connect", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_an_error_means(error, code, transient):
    fault = GcsStore().fault(error)
    assert (fault.code, fault.transient) == (code, transient)


def test_an_error_that_is_not_of_the_store_means_nothing():
    assert GcsStore().fault(RuntimeError("x")) is None
    assert GcsStore().fault(ValueError("x")) is None


def test_the_endpoint_is_that_of_the_emulator_or_googles(monkeypatch):
    options = PipelineOptions([])
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://here:1")
    assert GCS.endpoint(options) == "http://here:1"
    assert "at STORAGE_EMULATOR_HOST=http://here:1: " in GCS.explain("gs://b/o", ConnectionError("refused"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    assert GCS.endpoint(options) == "https://storage.googleapis.com"
    assert GCS.explain("gs://b/o", ConnectionError("refused")) == "the store cannot be reached: refused"


def test_a_refusal_with_credentials_names_the_bucket():
    said = GcsStore().explain("gs://b/o", google.Forbidden("no storage.objects.list"))
    assert said.startswith("these Google credentials may not do this with bucket b: 403 ")
    assert said.endswith("no storage.objects.list")


def test_an_object_that_is_replaced_while_it_is_read_is_noticed(store, behind_proxy):
    """The emulator ignores this precondition, so the proxy answers for it."""
    _, proxy = behind_proxy
    path = f"{store.folder()}/a"
    door.write_atomic(path, b"first")
    opened = GCS.open(path)
    assert (opened.size, opened.read_at(1, 3)) == (5, b"irs")
    door.write_atomic(path, b"other")
    again = GCS.open(path)
    assert again.version != opened.version
    assert again.read_at(0, 5) == b"other"
    asked = f"alt=media&ifGenerationMatch={opened.version}"
    proxy.chosen = lambda method, request: "412" if request.endswith(asked) else ""
    with pytest.raises(Changed, match="replaced while it was read"):
        opened.read_at(1, 3)
    assert again.read_at(0, 5) == b"other"


def test_an_object_is_read_into_a_sink_and_checked(store):
    path = f"{store.folder()}/a b+ü"
    door.write_atomic(path, b"bytes")
    sink = Sink()
    GCS.read(path, sink)
    assert sink.data() == b"bytes"
    with pytest.raises(google.NotFound):
        GCS.read(f"{path}/none", Sink())


def test_an_object_is_created_once_copied_and_deleted(store):
    folder = store.folder()
    assert GCS.create_only(f"{folder}/a", b"1")
    assert not GCS.create_only(f"{folder}/a", b"2")
    assert GCS.place(f"{folder}/a", f"{folder}/b")
    assert not GCS.place(f"{folder}/none", f"{folder}/b")
    assert stores.contents(folder) == {"a": b"1", "b": b"1"}
    GCS.delete(f"{folder}/a")
    GCS.delete(f"{folder}/a")
    assert (GCS.exists(f"{folder}/a"), GCS.exists(f"{folder}/b")) == (False, True)


def test_an_upload_that_the_store_forgot_is_sent_again_as_a_whole(store, behind_proxy):
    _, proxy = behind_proxy
    path, data = f"{store.folder()}/large", os.urandom(1 << 20)
    forgotten: list[str] = []

    def forget(method: str, request: str) -> str:
        is_part = method == "PUT" and "upload_id=" in request
        forgotten.extend([request] * is_part)
        return "410" if is_part and len(forgotten) == 1 else ""

    proxy.chosen = forget
    with pytest.raises(CutShort, match="forgot the upload"):
        GCS.upload(path, io.BytesIO(data))
    forgotten.clear()
    door.write_atomic(path, data)
    assert len(forgotten) == 2
    assert door.read_bytes(path) == data


def test_a_block_is_read_in_one_piece(store, monkeypatch):
    path, data, pieces = f"{store.folder()}/a", os.urandom(3 << 20), []
    door.write_atomic(path, data)
    plain = gcs._Answer.write
    monkeypatch.setattr(
        gcs._Answer, "write", lambda self, part: pieces.append(len(part)) or plain(self, part)
    )
    assert GCS.open(path).read_at(1 << 20, 2 << 20) == data[1 << 20 :]
    assert pieces == [2 << 20]
