"""Settings and fixtures of all test modules; the settings are read before TensorFlow is imported."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tests.checkpoints import R101X3
from transforms.feeding import crew
from transforms.feeding.forking import CannotStart


@pytest.fixture
def decoding_here(monkeypatch):
    """Images are decoded on threads of this process, so that what a test replaces is replaced there, too."""

    def no_process(*_):
        raise CannotStart("not in this test")

    monkeypatch.setattr(crew, "Forking", no_process)


@pytest.fixture(scope="session")
def r101x3_checkpoint(tmp_path_factory):
    """The seeded R101x3 checkpoint, 1.5 GB: for tests in the group "r101x3", so that one process makes it."""
    folder = tmp_path_factory.mktemp("r101x3")
    path = R101X3.checkpoint(folder)
    yield path
    (folder / path).unlink()
