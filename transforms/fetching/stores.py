"""gs:// and s3://: one long-lived client a worker for each, one request an image."""

from __future__ import annotations

import contextlib
import os
import re

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import S3Options

from transforms.errors import ItemError
from transforms.fetching.retries import Deadline, TransientError
from transforms.fetching.settings import FetchSettings

_READ_BYTES = 1 << 20
_OBJECT = re.compile(r"(?s)\s*[a-z0-9]+://([^/]+)/(.+)", re.IGNORECASE)


def parse_object(uri: str) -> tuple[str, str]:
    """Bucket and object of gs://bucket/object or s3://bucket/key."""
    match = _OBJECT.fullmatch(uri)
    if match is None:
        raise ItemError("bad_uri", "an object's URI is SCHEME://BUCKET/OBJECT")
    return match.group(1), match.group(2)


class CappedBuffer:
    """A file to write to that refuses too many bytes, or bytes that come too late."""

    def __init__(self, max_bytes: int, deadline: Deadline):
        self.data = bytearray()
        self._max_bytes = max_bytes
        self._deadline = deadline

    def write(self, data: bytes) -> int:
        self._deadline.check()
        self.data += data
        if len(self.data) > self._max_bytes:
            raise ItemError("too_large", f"the object holds more than max_bytes={self._max_bytes}")
        return len(data)

    def seek(self, offset: int) -> int:
        """Takes back what lies behind `offset`: how the GCS client starts a transcoded object again."""
        del self.data[offset:]
        return offset


def status_error(status: int, said: str) -> ItemError:
    """An object store's refusal under the code it gets in the ledger."""
    if status in (408, 429) or status >= 500:
        return TransientError(f"http_{status // 100}xx", said)
    return ItemError({404: "not_found", 401: "forbidden", 403: "forbidden"}.get(status, "http_4xx"), said)


class GcsReader:
    """Google Cloud Storage with the worker's default credentials, or anonymously where it has none.

    Honours STORAGE_EMULATOR_HOST. Beam's own file system makes a client and three requests for each file.
    """

    def __init__(self, settings: FetchSettings):
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter

        self._settings = settings
        self._anonymous = False
        # Or the client also asks for the bucket; where it may not see it, from a new thread for each object.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        try:
            self._client = Client(project=None)
        except DefaultCredentialsError:
            self._client = Client.create_anonymous_client()
            self._anonymous = True
        for prefix in ("http://", "https://"):
            adapter = HTTPAdapter(pool_connections=2, pool_maxsize=settings.concurrency)
            self._client._http.mount(prefix, adapter)  # there is no public way to size the pool

    def read(self, uri: str, deadline: Deadline) -> bytes:
        """One attempt; checks the object's checksum. Raises ItemError."""
        import google.auth.exceptions
        import requests
        from google.api_core.exceptions import GoogleAPICallError
        from google.cloud.storage.exceptions import DataCorruption

        bucket, name = parse_object(uri)
        deadline.check()
        buffer = CappedBuffer(self._settings.max_bytes, deadline)
        timeout = _timeouts(self._settings, deadline)
        try:
            self._client.bucket(bucket).blob(name).download_to_file(buffer, timeout=timeout, retry=None)
        except GoogleAPICallError as error:
            hint = "; this worker has no Google credentials" if self._anonymous else ""
            raise status_error(error.code or 500, f"Cloud Storage answered {error.code}{hint}") from None
        except google.auth.exceptions.TransportError:
            raise TransientError("connect", "the server of Google's access tokens was not reached") from None
        except google.auth.exceptions.GoogleAuthError:  # so also ends a 401 without credentials
            raise ItemError("forbidden", "Google refused this worker's credentials, or it has none") from None
        except DataCorruption:
            raise TransientError("truncated", "the object's bytes do not match its checksum") from None
        except (requests.exceptions.ChunkedEncodingError, ConnectionError):
            raise TransientError("truncated", "Cloud Storage ended the answer early") from None
        except requests.exceptions.Timeout:
            raise TransientError("timeout", "Cloud Storage was silent too long") from None
        except requests.exceptions.RequestException as error:
            kind = type(error).__name__
            raise TransientError("connect", f"Cloud Storage could not be reached ({kind})") from None
        except ValueError:
            raise ItemError("bad_uri", f"{bucket!r} cannot be a bucket's name") from None
        return bytes(buffer.data)

    def close(self) -> None:
        self._client.close()


class S3Reader:
    """S3 and what speaks like it, with Beam's S3 options, else boto3's own credentials, else anonymously.

    Beam's own file system makes a new client for each file and repeats a failed read for ten minutes.
    """

    def __init__(self, settings: FetchSettings):
        import boto3
        import botocore
        from botocore.config import Config

        self._settings = settings
        # The worker's pipeline options: FileSystems.set_options gives them to every file system it makes.
        options = FileSystems.get_filesystem("s3://")._options  # type: ignore[attr-defined]
        options = options.view_as(S3Options)
        session = boto3.session.Session(
            aws_access_key_id=options.s3_access_key_id,
            aws_secret_access_key=options.s3_secret_access_key,
            aws_session_token=options.s3_session_token,
            region_name=options.s3_region_name,
        )
        config = Config(
            connect_timeout=settings.connect_seconds,
            read_timeout=settings.read_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=settings.concurrency,
            signature_version=None if session.get_credentials() else botocore.UNSIGNED,
        )
        self._client = session.client(
            "s3", config=config, endpoint_url=options.s3_endpoint_url, api_version=options.s3_api_version,
            use_ssl=not options.s3_disable_ssl, verify=options.s3_verify,
        )  # fmt: skip

    def read(self, uri: str, deadline: Deadline) -> bytes:
        """One attempt; boto3 checks the object's checksum where it has one. Raises ItemError."""
        from botocore import exceptions as s3

        bucket, key = parse_object(uri)
        deadline.check()
        buffer = CappedBuffer(self._settings.max_bytes, deadline)
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key)
            # closing, not `with`: a StreamingBody entered by `with` hands out the stream that checks nothing.
            with contextlib.closing(answer["Body"]) as body:
                if answer["ContentLength"] > self._settings.max_bytes:
                    raise ItemError("too_large", f"the object has {answer['ContentLength']} bytes")
                while part := body.read(_READ_BYTES):
                    buffer.write(part)
        except s3.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            raise status_error(status, f"S3 answered {status} {error.response['Error']['Code']}") from None
        except s3.ParamValidationError:
            raise ItemError("bad_uri", "S3 allows no such bucket or key") from None
        except (s3.IncompleteReadError, s3.ResponseStreamingError):
            raise TransientError("truncated", "S3 ended the answer early") from None
        except s3.FlexibleChecksumError:
            raise TransientError("truncated", "the object's bytes do not match its checksum") from None
        except (s3.ConnectTimeoutError, s3.ReadTimeoutError):
            raise TransientError("timeout", "S3 was silent too long") from None
        except s3.BotoCoreError as error:
            kind = type(error).__name__
            raise TransientError("connect", f"S3 could not be reached ({kind})") from None
        return bytes(buffer.data)

    def close(self) -> None:
        self._client.close()


def read_with_beam(uri: str, max_bytes: int, deadline: Deadline) -> bytes:
    """Any other scheme that Beam has a file system for, with Beam's own retries. Raises ItemError."""
    from apache_beam.io.filesystem import BeamIOError, CompressionTypes

    buffer = CappedBuffer(max_bytes, deadline)
    try:
        # Not AUTO: an image whose name ends in .gz is still an image file.
        with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            while part := file.read(_READ_BYTES):
                buffer.write(part)
    except FileNotFoundError:
        raise ItemError("not_found", "there is no such file") from None
    except (BeamIOError, OSError) as error:
        raise TransientError("read_error", f"Beam could not read it ({type(error).__name__})") from None
    except ValueError:
        raise ItemError("scheme_not_allowed", "Beam has no file system for this scheme here") from None
    return bytes(buffer.data)


def _timeouts(settings: FetchSettings, deadline: Deadline) -> tuple[float, float]:
    left = max(1e-3, deadline.left())
    return min(settings.connect_seconds, left), min(settings.read_seconds, left)
