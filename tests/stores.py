"""Places for the input and output of a test: a folder on disk, or a prefix of a bucket in an emulator."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from tests import emulators
from transforms.storage import door

BUCKET = "bit-features"


@dataclass(frozen=True)
class Store:
    """A kind of place, and the flags that a job needs to reach it."""

    root: str
    flags: tuple[str, ...] = ()

    def folder(self) -> str:
        """The path of an empty folder."""
        return f"{self.root}/{uuid.uuid4().hex}"

    def use(self) -> None:
        """Lets this process reach the store as a job with the flags does."""
        door.configure(PipelineOptions(list(self.flags)))


@contextlib.contextmanager
def gcs() -> Iterator[Store]:
    """Cloud Storage as fake-gcs-server plays it, with one bucket."""
    with emulators.fake_gcs_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        patch.setenv("NO_GCE_CHECK", "true")
        Client("project", AnonymousCredentials()).create_bucket(BUCKET)
        yield Store(f"gs://{BUCKET}")
        FileSystems.set_options(PipelineOptions([]))


@contextlib.contextmanager
def s3() -> Iterator[Store]:
    """S3 as moto plays it, with one bucket."""
    with emulators.s3_emulator() as endpoint:
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=BUCKET)
        flags = ("access_key_id=key", "secret_access_key=secret", "region_name=us-east-1")
        yield Store(f"s3://{BUCKET}", (f"--s3_endpoint_url={endpoint}", *(f"--s3_{flag}" for flag in flags)))
        FileSystems.set_options(PipelineOptions([]))


def disk(folder: Path) -> Store:
    return Store(str(folder))


def upload(folder: str, files: Mapping[str, bytes]) -> None:
    """Writes files by their names below a folder."""
    for name, data in files.items():
        door.write_atomic(door.join(folder, name), data)


def contents(folder: str) -> dict[str, bytes]:
    """Every file below a folder."""
    paths = [file.path for file in door.match(f"{folder}/**")]
    return {path[len(folder) + 1 :]: data for path, data in zip(paths, door.read_many(paths), strict=True)}


def modified(folder: str) -> dict[str, float]:
    """When each file below a folder was written last, in seconds."""
    files = door.match(f"{folder}/**")
    return {file.path[len(folder) + 1 :]: file.last_updated_in_seconds for file in files}
