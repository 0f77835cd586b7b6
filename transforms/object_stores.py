"""What Beam's FileSystems cannot do on gs:// and s3://: create an object only if there is none, and small things cheaply.

Beam makes a client and three requests for each object that it opens, lists before it deletes, and on S3 a copy that
failed looks like one that succeeded and an empty object cannot be written. These keep one client in a process and make
one request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
from typing import IO, Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, S3Options

CONNECTIONS = 32  # of one client
_IN_MEMORY_BYTES = 32 << 20  # of an upload; the rest goes to a temporary file
_CONFLICTS = 5  # answers "another write is under way" before giving up
_OBJECT = re.compile(r"(?s)[a-z0-9]+://([^/]+)/(.+)")

_no_google_credentials = threading.Event()
_making = threading.Lock()
_made: dict[str, tuple[Any, ...]] = {}  # scheme -> options, endpoint, client


def split(path: str) -> tuple[str, str]:
    """Bucket and object of gs://bucket/object or s3://bucket/key."""
    match = _OBJECT.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} names no object: SCHEME://BUCKET/OBJECT is expected")
    return match[1], match[2]


def settle_google_credentials(options: PipelineOptions) -> None:
    """Looks once for Google credentials. Where there are none, Beam connects anonymously at once.

    Left alone, Beam repeats the same search for 20 seconds in each process.
    """
    import google.auth
    from apache_beam.internal.gcp import auth
    from google.auth.exceptions import DefaultCredentialsError

    known = auth._Credentials
    if known._credentials_init:
        return
    try:
        logging.getLogger("google.auth").setLevel(logging.ERROR)  # what is missing is said where it is missed
        google.auth.default(scopes=options.view_as(GoogleCloudOptions).gcp_oauth_scopes)
    except DefaultCredentialsError:
        _no_google_credentials.set()
        with known._credentials_lock:
            known._credentials_init, known._credentials = True, None


class GcsStore:
    """Google Cloud Storage with Beam's own options and credentials. Thread-safe."""

    def __init__(self, options: PipelineOptions) -> None:
        from apache_beam.io.gcp.gcsio import create_storage_client
        from requests.adapters import HTTPAdapter

        self._client = create_storage_client(options)
        for prefix in ("http://", "https://"):
            adapter = HTTPAdapter(pool_connections=2, pool_maxsize=CONNECTIONS)
            self._client._http.mount(prefix, adapter)  # there is no public way to size the pool

    def create_only(self, path: str, data: bytes) -> bool:
        """Writes an object if there is none of this name; whether it did. Atomic."""
        from google.api_core.exceptions import PreconditionFailed

        bucket, name = split(path)
        blob = self._client.bucket(bucket).blob(name)
        try:
            blob.upload_from_string(data, "application/octet-stream", if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        """Writes an object from the start of `file`, over an older one. Atomic."""
        bucket, name = split(path)
        self._client.bucket(bucket).blob(name).upload_from_file(file, rewind=True)

    def read(self, path: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        from google.api_core.exceptions import NotFound

        bucket, name = split(path)
        try:
            return self._client.bucket(bucket).blob(name).download_as_bytes(raw_download=True)
        except NotFound:
            return None

    def exists(self, path: str) -> bool:
        bucket, name = split(path)
        return self._client.bucket(bucket).blob(name).exists()

    def copy(self, source: str, target: str) -> bool:
        """Copies an object within the store, over an older one; False if there is no `source`. Atomic."""
        from google.api_core.exceptions import NotFound

        old, new = (self._client.bucket(split(path)[0]).blob(split(path)[1]) for path in (source, target))
        token = None
        try:
            while True:
                token, _, _ = new.rewrite(old, token=token)
                if token is None:
                    return True
        except NotFound:
            return False

    def delete(self, path: str) -> None:
        """Deletes an object; one that is gone already is no error."""
        from google.api_core.exceptions import NotFound
        from google.cloud.storage.retry import DEFAULT_RETRY

        bucket, name = split(path)
        with contextlib.suppress(NotFound):
            self._client.bucket(bucket).blob(name).delete(retry=DEFAULT_RETRY)


class S3Store:
    """S3 and what speaks like it, with Beam's own options. Thread-safe."""

    def __init__(self, all_options: PipelineOptions) -> None:
        import boto3
        from botocore.config import Config

        options = all_options.view_as(S3Options)
        self._client: Any = boto3.session.Session().client(
            "s3",
            config=Config(max_pool_connections=CONNECTIONS),
            region_name=options.s3_region_name,
            api_version=options.s3_api_version,
            use_ssl=not options.s3_disable_ssl,
            verify=options.s3_verify,
            endpoint_url=options.s3_endpoint_url,
            aws_access_key_id=options.s3_access_key_id,
            aws_secret_access_key=options.s3_secret_access_key,
            aws_session_token=options.s3_session_token,
        )

    def create_only(self, path: str, data: bytes) -> bool:
        """Writes an object if there is none of this name; whether it did. Atomic."""
        from botocore.exceptions import ClientError

        bucket, key = split(path)
        for left in reversed(range(_CONFLICTS)):
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                code = _status(error)
                if code == 412:
                    return False
                if code != 409 or not left:
                    raise
            else:
                return True
        raise AssertionError("unreachable")

    def upload(self, path: str, file: IO[bytes]) -> None:
        """Writes an object from the start of `file`, over an older one. Atomic."""
        bucket, key = split(path)
        file.seek(0)
        self._client.upload_fileobj(file, bucket, key)

    def read(self, path: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        from botocore.exceptions import ClientError

        bucket, key = split(path)
        try:
            with self._client.get_object(Bucket=bucket, Key=key)["Body"] as body:
                return body.read()
        except ClientError as error:
            if _status(error) == 404:
                return None
            raise

    def exists(self, path: str) -> bool:
        from botocore.exceptions import ClientError

        bucket, key = split(path)
        try:
            self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return True

    def copy(self, source: str, target: str) -> bool:
        """Copies an object within the store, over an older one; False if there is no `source`. Atomic."""
        from botocore.exceptions import ClientError

        bucket, key = split(source)
        try:
            self._client.copy({"Bucket": bucket, "Key": key}, *split(target))
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return True

    def delete(self, path: str) -> None:
        """Deletes an object; one that is gone already is no error."""
        bucket, key = split(path)
        self._client.delete_object(Bucket=bucket, Key=key)

    def has_bucket(self, path: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._client.head_bucket(Bucket=path.split("/")[2])
        except ClientError as error:
            return _status(error) != 404
        return True


class Upload:
    """A file to write to that becomes an object when it is closed. What is never closed never becomes one."""

    def __init__(self, store: GcsStore | S3Store, path: str):
        self._store, self._path = store, path
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            self._store.upload(self._path, self._file)
            self._file.close()

    def discard(self) -> None:
        """Drops what was written."""
        self._file.close()


def store_of(path: str) -> GcsStore | S3Store | None:
    """This process's client for the store of `path`; None where FileSystems must do."""
    scheme = FileSystems.get_scheme(path)
    if scheme not in ("gs", "s3"):
        return None
    # What Beam's own file systems would use: set_options at launch, the worker's options on a worker.
    options = FileSystems._pipeline_options or PipelineOptions([])
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    with _making:
        if _made.get(scheme, (None, None))[:2] != (options, endpoint):
            _made[scheme] = (options, endpoint, GcsStore(options) if scheme == "gs" else S3Store(options))
        return _made[scheme][2]


def _status(error: Any) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def explain(path: str, error: BaseException) -> str:
    """One sentence on why a store did not do what was asked with `path`, and what to do about it."""
    cause: Any = error
    while details := getattr(cause, "exception_details", None):
        cause = next(iter(details.values()))
    code = cause if isinstance(cause, int) else getattr(cause, "code", None)
    if not isinstance(code, int):
        code = _status(cause) if hasattr(cause, "response") and isinstance(cause.response, dict) else None
    bucket = path.split("/")[2] if path.count("/") > 1 else path
    scheme = FileSystems.get_scheme(path)
    text = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    if scheme == "gs" and (code in (401, 403) or "Anonymous credentials" in text):
        if _no_google_credentials.is_set():
            return (
                "no Google credentials were found, and the bucket is not public: "
                "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
            )
        return f"these Google credentials may not do this with bucket {bucket}: {text}"
    if scheme == "s3" and "locate credentials" in text:
        return (
            "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "a profile, or --s3_access_key_id and --s3_secret_access_key"
        )
    if scheme == "s3" and code == 403:
        return f"these AWS credentials may not do this with bucket {bucket}: {text}"
    if scheme in ("gs", "s3") and code == 404:
        return f"there is no bucket {bucket}, or it is not visible from here"
    if scheme in ("gs", "s3") and "onnection" in f"{type(cause).__name__} {text}":
        endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "") if scheme == "gs" else ""
        return f"the store cannot be reached{f' at STORAGE_EMULATOR_HOST={endpoint}' if endpoint else ''}: {text}"
    return str(error)
