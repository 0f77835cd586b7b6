"""Which errors are retried, for how long, and the final messages."""

from __future__ import annotations

import errno
import http.client
import os
import threading
import time

import pytest
from apache_beam.io.filesystem import BeamIOError
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from google.api_core.exceptions import Forbidden, NotFound, TooManyRequests
from requests.exceptions import ConnectionError as RequestsConnectionError

from transforms.storage import retrying
from transforms.storage.errors import Changed, CutShort, StorageFailed
from transforms.storage.retrying import Limits
from transforms.storage.stores import fault_of
from transforms.storage.watching import Beat


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(30, 0.0001, 0.001))


def from_s3(status: int, code: str = "") -> ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


def path_of(error: BaseException) -> str:
    """A path on the store whose client raises this error."""
    package = type(error).__module__.partition(".")[0]
    return {"botocore": "s3://bucket/x", "google": "gs://bucket/x", "requests": "gs://bucket/x"}.get(
        package, "the/path"
    )


def of_errno(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        *map(of_errno, ("EIO", "EAGAIN", "ESTALE", "ETIMEDOUT", "ECONNRESET", "EHOSTUNREACH")),
        TimeoutError("timed out"),
        ConnectionResetError(),
        BeamIOError("Copy", {("a", "b"): 503}),
        BeamIOError("Rename", {("a", "b"): OSError(of_errno("EIO"))}),  # as Beam wraps disk errors
        from_s3(503, "SlowDown"),
        from_s3(400, "RequestTimeout"),
        from_s3(409, "ConditionalRequestConflict"),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        TooManyRequests("slowly"),
        RequestsConnectionError("reset"),
        http.client.IncompleteRead(b""),
        CutShort("short"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error):
    answers = [error, error, "value"]

    def action():
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    path = path_of(error)
    assert fault_of(path, error).transient
    assert retrying.call("reading", path, action) == "value"


@pytest.mark.parametrize(
    "error",
    [
        *map(of_errno, ("ENOENT", "EACCES", "EPERM", "ENOSPC", "EROFS", "EDQUOT", "EISDIR", "ENAMETOOLONG")),
        BeamIOError("Copy", {("a", "b"): 404}),
        BeamIOError("Copy", {("a", "b"): PermissionError(errno.EACCES, "no")}),
        from_s3(403, "AccessDenied"),
        from_s3(404),
        NoCredentialsError(),
        Forbidden("no"),
        NotFound("none"),
        Changed("changed"),
    ],
    ids=repr,
)
def test_what_stays_is_told_at_once(error):
    tries = []

    def action():
        tries.append(1)
        raise error

    path = path_of(error)
    with pytest.raises(StorageFailed, match=f"^reading {path} failed: ") as raised:
        retrying.call("reading", path, action)
    assert len(tries) == 1
    assert raised.value.__cause__ is error


def test_a_mistake_is_not_taken_for_storage():
    with pytest.raises(KeyError):
        retrying.call("reading", "path", lambda: {}["none"])


def test_patience_ends_and_says_how_often_it_tried(monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(0.2, 0.001, 0.01))
    with pytest.raises(
        StorageFailed, match=r"writing x failed \(\d+ tries\): Input/output error \(EIO\); run the"
    ):
        retrying.call("writing", "x", lambda: (_ for _ in ()).throw(of_errno("EIO")))
    with pytest.raises(StorageFailed, match=r"writing x failed: Input/output error \(EIO\)"):
        retrying.once("writing", "x", lambda: (_ for _ in ()).throw(of_errno("EIO")))


def test_progress_that_leads_nowhere_is_given_up(monkeypatch):
    """An upload of which the store accepts every block, and then refuses the end."""
    monkeypatch.setattr(retrying, "LIMITS", Limits(1, 0.001, 0.01))
    beat = Beat()

    def upload():
        beat()
        raise of_errno("EIO")

    with pytest.raises(StorageFailed, match=r"writing x failed \(\d+ tries\)"):
        retrying.call("writing", "x", upload, beat)


def test_silence_ends_while_what_hangs_is_left_alone(monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(0.2, 0.001, 0.01))
    over = threading.Event()
    with pytest.raises(StorageFailed, match=r"opening x failed: nothing came back for 0\.2 s"):
        retrying.call("opening", "x", lambda: over.wait(100))
    assert retrying.call("opening", "x", lambda: "alive") == "alive"
    over.set()


def test_a_long_operation_that_gets_on_is_not_silent(monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(5, 0.001, 0.01))
    beat = Beat()

    def slow():
        for _ in range(8):
            time.sleep(1)
            beat()
        return "done"

    assert retrying.call("writing", "x", slow, beat) == "done"


def test_before_the_start_patience_is_short(monkeypatch):
    monkeypatch.setattr(retrying, "_BEFORE_THE_START_SECONDS", 0.1)
    began = threading.Event()
    with retrying.hurried(), pytest.raises(StorageFailed, match=r"nothing came back for 0\.1 s"):
        retrying.call("opening", "x", lambda: began.wait(100))
    began.set()
    assert Limits(30, 0.0001, 0.001) == retrying.LIMITS


def test_a_failure_survives_the_way_from_a_worker():
    import pickle

    error = StorageFailed("writing x failed: why", "x", of_errno("EIO"))
    assert str(pickle.loads(pickle.dumps(error))) == "writing x failed: why"


def test_an_action_keeps_nothing_alive():
    class Big:
        gone = threading.Event()

        def __del__(self):
            self.gone.set()

    def use() -> None:
        big = Big()
        retrying.call("reading", "x", lambda: big and None)

    use()
    assert Big.gone.wait(30)
