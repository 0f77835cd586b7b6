"""This process's clients for gs:// and s3://, their credentials, and what their errors mean for a user.

Beam makes a client and three requests for each object that it opens, lists before it deletes, and on S3 a copy that
failed looks like one that succeeded and an empty object cannot be written. These keep one client in a process and make
one request.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from transforms.storage.errors import cause_of, status_of
from transforms.storage.gcs import GcsStore
from transforms.storage.s3 import S3Store

_no_google_credentials = threading.Event()
_making = threading.Lock()
_made: dict[str, tuple[Any, ...]] = {}  # scheme -> options, endpoint, client


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


def explain(path: str, error: BaseException) -> str:
    """One sentence on why a store did not do what was asked with `path`, and what to do about it."""
    cause = cause_of(error)
    code = status_of(cause)
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
