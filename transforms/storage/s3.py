"""S3 and compatible stores: one client per process, one request per operation."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import urlsplit

from apache_beam.io.filesystem import FileMetadata
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from transforms.storage import clients, errors, globs
from transforms.storage.clients import Clients, bucket_of, split
from transforms.storage.errors import Changed, Fault, cause_of, describe, status_fault, status_of
from transforms.storage.sink import Sink

_READ_BYTES = 64 << 10  # per read: each read counts as progress
_COPIED_BYTES = 64 << 20  # 64 MiB; of a part, within a store
_TRIES_OF_A_PART = 4
_AMAZON = re.compile(r"\.amazonaws\.com$")
_TRANSIENT_CODES = frozenset(
    ("SlowDown", "RequestTimeout", "InternalError", "Throttling", "ServiceUnavailable",
     "ConditionalRequestConflict", "OperationAborted")  # the last two: another write is under way
)  # fmt: skip


class S3Store:
    """S3 with the credentials of Beam's S3 options, else boto3's own, else anonymously. Thread-safe."""

    schemes: tuple[str, ...] = ("s3",)
    atomic_uploads = True
    parallel_reads = True

    def __init__(self) -> None:
        self._clients = Clients(_connect)

    @property
    def _client(self) -> Any:
        return self._clients.get()

    def connect(self) -> None:
        """Searches for credentials, which can take seconds."""
        self._clients.get()

    def endpoint(self, options: PipelineOptions) -> str:
        """That of --s3_endpoint_url, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile; '' for Amazon's own."""
        import botocore
        from botocore.config import Config

        unsigned = Config(signature_version=botocore.UNSIGNED)  # searches for no credentials
        url = str(_client(options.view_as(S3Options), unsigned).meta.endpoint_url)
        return "" if _AMAZON.search(urlsplit(url).hostname or "") else url

    def is_configured(self, options: PipelineOptions) -> bool:
        """Whether a flag or a variable names an endpoint; a profile may, too."""
        by_variable = any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ)
        return by_variable or bool(options.view_as(S3Options).s3_endpoint_url)

    def adopt(self, url: str, options: PipelineOptions) -> None:
        """Uses the launcher's endpoint where this process has none of its own."""
        own = self.endpoint(options)
        if own and own != url:
            raise errors.elsewhere("s3://", own, url or "Amazon's own address", "AWS_ENDPOINT_URL")
        if url and not own:
            options.view_as(S3Options).s3_endpoint_url = url

    def fault(self, error: Any) -> Fault | None:
        """Knows the errors of boto3, botocore and s3transfer."""
        from boto3.exceptions import S3UploadFailedError
        from botocore import exceptions as s3

        name = type(error).__name__
        if isinstance(error, S3UploadFailedError):  # its context is the real cause
            cause = error.__context__ and self.fault(error.__context__)
            return cause or Fault("connect", "an upload to S3 failed", transient=True)
        if isinstance(error, s3.ClientError):
            status, code = status_of(error) or 500, error.response.get("Error", {}).get("Code", "")
            fault = status_fault(status, f"S3 answered {status} {code}")
            fault.transient |= code in _TRANSIENT_CODES
            return fault
        if isinstance(error, s3.ParamValidationError):
            return Fault("bad_uri", "S3 allows no such bucket or key")
        if isinstance(error, (s3.IncompleteReadError, s3.ResponseStreamingError)):
            return Fault("truncated", "S3 ended the answer early", transient=True)
        if isinstance(error, s3.FlexibleChecksumError):
            return Fault("truncated", "the object's bytes do not match its checksum", transient=True)
        if isinstance(error, (s3.ConnectTimeoutError, s3.ReadTimeoutError)):
            return Fault("timeout", "S3 was silent too long", transient=True)
        if isinstance(error, s3.BotoCoreError):
            transient = isinstance(
                error, s3.HTTPClientError | s3.ConnectionError | s3.CredentialRetrievalError
            )
            return Fault("connect", f"S3 could not be reached ({name})", transient)
        if type(error).__module__.partition(".")[0] in ("boto3", "botocore", "s3transfer"):
            return Fault("connect", f"S3 could not be used ({name})", name == "RetriesExceededError")
        return None

    def explain(self, path: str, error: BaseException) -> str:
        """Knows missing credentials and permissions."""
        cause = cause_of(error)
        code, text = status_of(cause), describe(cause)
        if "locate credentials" in text or (code == 403 and self._clients.anonymous):
            return (
                "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "a profile, or --s3_access_key_id and --s3_secret_access_key"
            )
        if code == 403:
            return f"these AWS credentials may not do this with bucket {bucket_of(path)}: {text}"
        return clients.explain(path, error)

    def match(
        self, pattern: str, page: str = "", beat: Callable[[], object] = bool
    ) -> tuple[list[FileMetadata], str]:
        """One request: for the metadata of an object, or for a page of the bucket."""
        glob = globs.parse(pattern)
        if glob.names is None:
            objects = []
            if glob.prefix:
                with _missing_suppressed():
                    head = self._client.head_object(Bucket=glob.bucket, Key=glob.prefix)
                    objects.append((glob.prefix, head["ContentLength"], head["LastModified"]))
            return glob.files(objects), ""
        answer = self._client.list_objects_v2(
            Bucket=glob.bucket,
            Prefix=glob.prefix,
            Delimiter=glob.delimiter,
            MaxKeys=globs.PAGE_OBJECTS,
            **({"ContinuationToken": page} if page else {}),
        )
        objects = [(item["Key"], item["Size"], item["LastModified"]) for item in answer.get("Contents", ())]
        return glob.files(objects), answer.get("NextContinuationToken", "")

    def exists(self, path: str) -> bool:
        """One request for the object's metadata."""
        with _missing_suppressed():
            self._client.head_object(**_object(path))
            return True
        return False

    def checksum(self, path: str) -> str:
        """The entity tag, in its quotes."""
        return str(self._client.head_object(**_object(path))["ETag"])

    def read(self, path: str, into: Sink) -> None:
        """One request, checked against the object's checksum if it was stored with one. Its Content-Encoding is undone."""
        answer = self._client.get_object(**_object(path))
        # closing, not `with`: `with` on a StreamingBody gives the underlying stream, which checks nothing.
        with contextlib.closing(answer["Body"]) as body:
            into.expect(answer["ContentLength"])
            while part := body.read(_READ_BYTES):
                into.write(part)
        into.undo(answer.get("ContentEncoding", ""))

    def open(self, path: str) -> S3File:
        """One request for the object's size and entity tag."""
        return S3File(self._client, _object(path))

    def create_only(self, path: str, data: bytes) -> bool:
        """Atomic: on the condition that there is no such object (If-None-Match)."""
        from botocore.exceptions import ClientError

        try:
            self._client.put_object(**_object(path), Body=data, IfNoneMatch="*")
        except ClientError as error:
            if status_of(error) == 412:
                return False
            raise
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        """In parts where the file is large; the object appears once all of them are stored."""
        file.seek(0)
        self._client.upload_fileobj(file, *split(path))

    def place(self, source: str, target: str) -> bool:
        """A copy within the store, in few parts, as no bytes pass through here; `source` remains."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_COPIED_BYTES, multipart_chunksize=_COPIED_BYTES)
        with _missing_suppressed():
            self._client.copy(_object(source), *split(target), Config=config)
            return True
        return False

    def delete(self, path: str) -> None:
        """S3 itself reports no error for a missing object."""
        self._client.delete_object(**_object(path))


class S3File:
    """An object opened for reading; `version` is its entity tag."""

    def __init__(self, client: Any, place: dict[str, str]):
        self._client, self._place = client, place
        head = client.head_object(**place)
        self.size, self.version = head["ContentLength"], head["ETag"]

    def read_at(self, offset: int, count: int) -> bytes:
        """One range request. Raises Changed if the object has another entity tag now."""
        from botocore.exceptions import ClientError

        conditions = {"Range": f"bytes={offset}-{offset + count - 1}", "IfMatch": self.version}
        try:
            with self._client.get_object(**self._place, **conditions)["Body"] as body:
                return body.read()
        except ClientError as error:
            if status_of(error) == 412:
                raise Changed("it was replaced while it was read") from error
            raise

    def close(self) -> None:
        """Does nothing: no connection stays open between reads."""


def _object(path: str) -> dict[str, str]:
    bucket, key = split(path)
    return {"Bucket": bucket, "Key": key}


@contextlib.contextmanager
def _missing_suppressed():
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if status_of(error) != 404:
            raise


def _connect(all_options: PipelineOptions) -> tuple[Any, bool]:
    import botocore
    from botocore.config import Config

    options = all_options.view_as(S3Options)
    session = _session(options)
    anonymous = session.get_credentials() is None
    config = Config(
        max_pool_connections=clients.POOLED_CONNECTIONS,
        retries={"total_max_attempts": 1},  # `retrying` retries
        signature_version=botocore.UNSIGNED if anonymous else None,
    )
    client = _client(options, config, session)
    for operation in ("UploadPart", "UploadPartCopy"):
        client.meta.events.register(f"needs-retry.s3.{operation}", _seconds_until_a_part_is_sent_again)
    return client, anonymous


def _session(options: S3Options) -> Any:
    import boto3

    return boto3.session.Session(
        aws_access_key_id=options.s3_access_key_id,
        aws_secret_access_key=options.s3_secret_access_key,
        aws_session_token=options.s3_session_token,
        region_name=options.s3_region_name,
    )


def _client(options: S3Options, config: Any, session: Any = None) -> Any:
    return (session or _session(options)).client(
        "s3",
        config=config,
        endpoint_url=options.s3_endpoint_url,
        api_version=options.s3_api_version,
        use_ssl=not options.s3_disable_ssl,
        verify=options.s3_verify,
    )


def _seconds_until_a_part_is_sent_again(response: Any = None, attempts: int = 1, **_: Any) -> float | None:
    """Retries a part alone: otherwise each part refused by a busy S3 would cost a new upload of the complete file."""
    refused = response is not None and response[0].status_code in (500, 503)
    return 0.5 * 2**attempts if refused and attempts < _TRIES_OF_A_PART else None


S3 = S3Store()
