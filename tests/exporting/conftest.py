"""Outputs of jobs that the tests export."""

import json

import pytest

from pipeline import export
from tests import helpers

SIZES = (7, 0, 4)  # images per shard; the last of the first shard cannot be decoded
PASSED = ("image/class/label", "image/filename", "tags")


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """A finished job over three shards, one of them empty, with a failure; its input is beside it in 'in'."""
    folder = tmp_path_factory.mktemp("exported")
    seed = 0
    for index, size in enumerate(SIZES):
        more = [{"tags": list(range(i % 3))} for i in range(size)]
        records = [helpers.image_example(seed + i, **more[i]) for i in range(size)]
        if index == 0:
            records[3] = helpers.example(
                {"image/encoded": b"no image", "image/filename": "x", "image/class/label": 0}
            )
        helpers.write_tfrecord(folder / "in" / f"in-{index}.tfrecord", records)
        seed += size
    helpers.job(
        f"--input={folder}/in/*.tfrecord",
        f"--pass_through={','.join(PASSED)}",
        "--batch_size=2",
        output=folder / "out",
    )
    return folder / "out"


def run(*flags, expect=0):
    """`python -m pipeline.export` in this process."""
    code = export.main([str(flag) for flag in flags])
    assert code == expect, f"exit code {code}, expected {expect}"


def about(schema):
    """What the metadata of an Arrow schema says about its features."""
    metadata = {name.decode(): value.decode() for name, value in schema.metadata.items()}
    return {
        name.removeprefix("bit_features."): value if name.endswith("precision") else json.loads(value)
        for name, value in metadata.items()
        if name.startswith("bit_features.")
    }
