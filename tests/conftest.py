"""Settings and fixtures of all test modules; the settings are read before TensorFlow is imported."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tests.checkpoints import R101X3


@pytest.fixture(scope="session")
def r101x3_checkpoint(tmp_path_factory):
    """The seeded R101x3 checkpoint, 1.5 GB: for tests in the group "r101x3", so that one process makes it."""
    folder = tmp_path_factory.mktemp("r101x3")
    path = R101X3.checkpoint(folder)
    yield path
    (folder / path).unlink()
