"""S3 and what speaks like it: what Beam's FileSystems cannot do there, and small things in one request each."""

from __future__ import annotations

from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from transforms.storage.errors import Changed, status_of
from transforms.storage.names import CONNECTIONS, split
from transforms.storage.other import matched

_CONFLICTS = 5  # answers "another write is under way" before giving up


class S3Store:
    """S3 and what speaks like it, with Beam's own options. Thread-safe."""

    whole_uploads = True

    def __init__(self, all_options: PipelineOptions) -> None:
        import boto3
        from botocore.config import Config

        options = all_options.view_as(S3Options)
        self._client: Any = boto3.session.Session().client(
            "s3",
            config=Config(
                max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 2}
            ),  # and `patience`
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
                code = status_of(error)
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

    def match(self, pattern: str) -> list[FileMetadata]:
        found = matched(pattern)
        if not found and not self.has_bucket(pattern):  # Beam lists it as empty
            raise BeamIOError("Match operation failed", {pattern: 404})
        return found

    def open(self, path: str) -> S3File:
        return S3File(self._client, *split(path))

    def read(self, path: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        from botocore.exceptions import ClientError

        bucket, key = split(path)
        try:
            with self._client.get_object(Bucket=bucket, Key=key)["Body"] as body:
                return body.read()
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise

    def exists(self, path: str) -> bool:
        from botocore.exceptions import ClientError

        bucket, key = split(path)
        try:
            self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if status_of(error) == 404:
                return False
            raise
        return True

    def place(self, source: str, target: str) -> bool:
        """Copies an object within the store, over an older one; False if there is no `source`. Atomic."""
        from botocore.exceptions import ClientError

        bucket, key = split(source)
        try:
            self._client.copy({"Bucket": bucket, "Key": key}, *split(target))
        except ClientError as error:
            if status_of(error) == 404:
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
            return status_of(error) != 404
        return True


class S3File:
    """An object opened for reading, as its entity tag has it now."""

    def __init__(self, client: Any, bucket: str, key: str):
        self._client, self._bucket, self._key = client, bucket, key
        head = client.head_object(Bucket=bucket, Key=key)
        self.size, self.version = head["ContentLength"], head["ETag"]

    def read_at(self, offset: int, count: int) -> bytes:
        from botocore.exceptions import ClientError

        asked = {"Range": f"bytes={offset}-{offset + count - 1}", "IfMatch": self.version}
        try:
            with self._client.get_object(Bucket=self._bucket, Key=self._key, **asked)["Body"] as body:
                return body.read()
        except ClientError as error:
            if status_of(error) == 412:
                raise Changed("it was replaced while it was read") from error
            raise

    def close(self) -> None:
        """Nothing is held between two reads."""
