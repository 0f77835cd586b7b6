"""Cloud Storage: one client per process, one request per operation."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import IO, Any

from apache_beam.io.filesystem import FileMetadata
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from transforms.storage import clients, errors, globs
from transforms.storage.clients import Clients, bucket_of, split
from transforms.storage.errors import Changed, CutShort, Fault, cause_of, status_of
from transforms.storage.sink import Sink

_EMULATOR = "STORAGE_EMULATOR_HOST"
_GOOGLE = "https://storage.googleapis.com"


class GcsStore:
    """Cloud Storage with Beam's own options and credentials, or anonymously where there are none. Thread-safe."""

    schemes: tuple[str, ...] = ("gs",)
    atomic_uploads = True
    parallel_reads = True

    def __init__(self) -> None:
        self._clients = Clients(_connect, lambda: os.environ.get(_EMULATOR))

    def connect(self) -> None:
        """Searches for credentials, which can take seconds."""
        self._clients.get()

    def endpoint(self, options: PipelineOptions) -> str:
        """The emulator of STORAGE_EMULATOR_HOST, or Google's."""
        return os.environ.get(_EMULATOR) or _GOOGLE

    def is_configured(self, options: PipelineOptions) -> bool:
        """True: it costs nothing to compare."""
        return True

    def adopt(self, url: str, options: PipelineOptions) -> None:
        """Sets STORAGE_EMULATOR_HOST, which Google's client reads, unless it is set already."""
        if url != _GOOGLE:
            os.environ.setdefault(_EMULATOR, url)
        if self.endpoint(options) != url:
            raise errors.elsewhere("gs://", self.endpoint(options), url, _EMULATOR)

    def fault(self, error: Any) -> Fault | None:
        """Knows the errors of google-cloud-storage and of its HTTP client."""
        import requests
        import urllib3
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.cloud.storage.exceptions import DataCorruption

        name = type(error).__name__
        if isinstance(error, (int, GoogleAPICallError)):
            status = status_of(error) or 500
            hint = "; this worker has no Google credentials" if self._clients.anonymous else ""
            return errors.status_fault(status, f"Cloud Storage answered {status}{hint}")
        if isinstance(error, TransportError):
            return Fault("connect", "the server of Google's access tokens was not reached", transient=True)
        if isinstance(error, GoogleAuthError):  # also the error for a 401 without credentials
            return Fault("forbidden", "Google refused this worker's credentials, or it has none")
        if isinstance(error, DataCorruption):
            return Fault("truncated", "the object's bytes do not match its checksum", transient=True)
        if isinstance(error, (requests.exceptions.ChunkedEncodingError, ConnectionError)):
            return Fault("truncated", "Cloud Storage ended the answer early", transient=True)
        if isinstance(error, urllib3.exceptions.ProtocolError):  # while a body is read as stored
            return Fault("truncated", "Cloud Storage ended the answer early", transient=True)
        if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError, RetryError)):
            return Fault("timeout", "Cloud Storage was silent too long", transient=True)
        if isinstance(error, requests.exceptions.RequestException):
            transient = not isinstance(error, ValueError)  # such as a malformed address
            return Fault("connect", f"Cloud Storage could not be reached ({name})", transient)
        if type(error).__module__.startswith("google."):
            return errors.plain_fault(error) or Fault("connect", f"Cloud Storage could not be used ({name})")
        return None

    def explain(self, path: str, error: BaseException) -> str:
        """Knows missing credentials and permissions."""
        cause = cause_of(error)
        text = errors.describe(cause)
        if status_of(cause) in (401, 403) or "Anonymous credentials" in text:
            if self._clients.anonymous:
                return (
                    "no Google credentials were found, and the bucket is not public: "
                    "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
                )
            return f"these Google credentials may not do this with bucket {bucket_of(path)}: {text}"
        emulator = os.environ.get(_EMULATOR, "")
        return clients.explain(path, error, f"{_EMULATOR}={emulator}" if emulator else "")

    def match(
        self, pattern: str, page: str = "", beat: Callable[[], object] = bool
    ) -> tuple[list[FileMetadata], str]:
        """One request: for the metadata of an object, or for a page of the bucket."""
        glob, client = globs.parse(pattern), self._clients.get()
        if glob.names is None:
            blob = glob.prefix and client.bucket(glob.bucket).get_blob(glob.prefix, retry=None)
            blobs, next_page = [blob] if blob else [], ""
        else:
            listing = client.list_blobs(
                glob.bucket,
                prefix=glob.prefix,
                delimiter=glob.delimiter or None,
                page_size=globs.PAGE_OBJECTS,
                page_token=page or None,
                fields="items(name,size,updated),nextPageToken",
                retry=None,
            )
            blobs, next_page = next(listing.pages), listing.next_page_token or ""
        return glob.files((blob.name, blob.size, blob.updated) for blob in blobs), next_page

    def exists(self, path: str) -> bool:
        """One request for the object's metadata."""
        return self._blob(path).exists(retry=None)

    def checksum(self, path: str) -> str:
        """The CRC-32C, in base64."""
        blob = self._blob(path)
        blob.reload(retry=None)
        return str(blob.crc32c)

    def read(self, path: str, into: Sink) -> None:
        """One request, checked against the object's checksum. Its Content-Encoding, if any, is undone."""
        blob = self._blob(path)
        # As stored: the client would undo gzip without a limit, and nothing else.
        blob.download_to_file(into, raw_download=True, retry=None)
        into.undo(blob.content_encoding or "")

    def open(self, path: str) -> GcsFile:
        """One request for the object's size and generation."""
        return GcsFile(functools.partial(self._blob, path))

    def create_only(self, path: str, data: bytes) -> bool:
        """Atomic: on the condition that there is no generation yet."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._blob(path).upload_from_string(
                data, "application/octet-stream", if_generation_match=0, retry=None
            )
        except PreconditionFailed:
            return False
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        """The object appears once all of its bytes are stored."""
        from google.api_core.exceptions import GoogleAPICallError

        try:
            # With the client's own retries, so that only a failed chunk is sent again, not the complete file.
            self._blob(path).upload_from_file(file, rewind=True)
        except GoogleAPICallError as error:
            # With an upload_id the session is gone, not the bucket.
            if error.code in (404, 410) and "upload_id=" in str(error):
                raise CutShort("the store forgot the upload") from error
            raise

    def place(self, source: str, target: str) -> bool:
        """A copy within Cloud Storage; `source` remains."""
        from google.api_core.exceptions import NotFound

        old, new = self._blob(source), self._blob(target)
        token = None
        try:
            while True:
                token, _, _ = new.rewrite(old, token=token, retry=None)
                if token is None:
                    return True
        except NotFound:
            return False

    def delete(self, path: str) -> None:
        """Deletes an object, if it exists."""
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._blob(path).delete(retry=None)

    def _blob(self, path: str) -> Any:
        bucket, name = split(path)
        return self._clients.get().bucket(bucket).blob(name)


class GcsFile:
    """An object opened for reading; `version` is its generation.

    Each request is made by a new blob: one that has seen an answer asks for that generation by name, and then an object
    that was replaced seems to be missing.
    """

    def __init__(self, new_blob: Callable[[], Any]):
        blob = new_blob()
        blob.reload(retry=None)
        self._new_blob, self._generation = new_blob, blob.generation
        self.size, self.version = blob.size, str(blob.generation)

    def read_at(self, offset: int, count: int) -> bytes:
        """One range request. Raises Changed if the object has another generation now."""
        from google.api_core.exceptions import PreconditionFailed

        into = _Answer()
        try:
            self._new_blob().download_to_file(
                into,
                start=offset,
                end=offset + count - 1,
                raw_download=True,
                single_shot_download=True,  # else the client passes on 8 kB at a time, with the GIL
                if_generation_match=self._generation,
                checksum=None,  # it covers the complete object
                retry=None,
            )
        except PreconditionFailed as error:
            raise Changed("it was replaced while it was read") from error
        return into.data

    def close(self) -> None:
        """Does nothing: no connection stays open between reads."""


class _Answer:
    """Keeps what is written at once, without a copy."""

    data = b""

    def write(self, data: bytes) -> int:
        """Appends; the client writes only once."""
        self.data = self.data + data if self.data else data
        return len(data)


def _connect(options: PipelineOptions) -> tuple[Any, bool]:
    from apache_beam.internal.gcp import auth
    from apache_beam.io.gcp.gcsio import create_storage_client
    from requests.adapters import HTTPAdapter

    # Otherwise the client also requests the bucket's metadata; without permission, on a new thread per object.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    _settle_credentials(options)
    client = create_storage_client(options)
    for prefix in ("http://", "https://"):
        adapter = HTTPAdapter(pool_connections=2, pool_maxsize=clients.POOLED_CONNECTIONS)
        client._http.mount(prefix, adapter)  # there is no public way to set the pool size
    return client, auth.get_service_credentials(options) is None


def _settle_credentials(options: PipelineOptions) -> None:
    """Searches for Google credentials once. If there are none, Beam connects anonymously at once.

    Otherwise Beam would repeat the same search for 20 seconds in each process.
    """
    import google.auth
    from apache_beam.internal.gcp import auth
    from google.auth.exceptions import DefaultCredentialsError

    credentials = auth._Credentials
    if credentials._credentials_init:
        return
    try:
        # Missing credentials are reported where they are needed.
        logging.getLogger("google.auth").setLevel(logging.ERROR)
        google.auth.default(scopes=options.view_as(GoogleCloudOptions).gcp_oauth_scopes)
    except DefaultCredentialsError:
        with credentials._credentials_lock:
            credentials._credentials_init, credentials._credentials = True, None


GCS = GcsStore()
