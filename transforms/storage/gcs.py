"""Google Cloud Storage: what Beam's FileSystems cannot do there, and small things in one request each."""

from __future__ import annotations

import contextlib
from typing import IO, Any

from apache_beam.io.filesystem import FileMetadata
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.errors import Changed, CutShort
from transforms.storage.names import CONNECTIONS, split
from transforms.storage.other import matched


class GcsStore:
    """Google Cloud Storage with Beam's own options and credentials. Thread-safe."""

    whole_uploads = True

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
        from google.api_core.exceptions import GoogleAPICallError

        bucket, name = split(path)
        try:
            self._client.bucket(bucket).blob(name).upload_from_file(file, rewind=True)
        except GoogleAPICallError as error:
            if error.code in (404, 410) and "upload_id=" in str(error):  # a session, not the bucket
                raise CutShort("the store forgot the upload") from error
            raise

    def read(self, path: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        from google.api_core.exceptions import NotFound

        bucket, name = split(path)
        try:
            return self._client.bucket(bucket).blob(name).download_as_bytes(raw_download=True)
        except NotFound:
            return None

    def match(self, pattern: str) -> list[FileMetadata]:
        return matched(pattern)

    def open(self, path: str) -> GcsFile:
        bucket, name = split(path)
        return GcsFile(self._client.bucket(bucket).blob(name))

    def exists(self, path: str) -> bool:
        bucket, name = split(path)
        return self._client.bucket(bucket).blob(name).exists()

    def place(self, source: str, target: str) -> bool:
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


class GcsFile:
    """An object opened for reading, at the generation that it has now."""

    def __init__(self, blob: Any):
        blob.reload()
        self._blob = blob
        self.size, self.version = blob.size, str(blob.generation)

    def read_at(self, offset: int, count: int) -> bytes:
        from google.api_core.exceptions import PreconditionFailed

        try:
            return self._blob.download_as_bytes(
                start=offset,
                end=offset + count - 1,
                raw_download=True,
                if_generation_match=self._blob.generation,
                checksum=None,  # which is of the whole object
            )
        except PreconditionFailed as error:
            raise Changed("it was replaced while it was read") from error

    def close(self) -> None:
        """Nothing is held between two reads."""
