"""Settings and fixtures of all test modules; the settings are read before TensorFlow is imported."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import pytest

import bit  # noqa: F401  # before TensorFlow, which some modules import before anything of the project
from tests.checkpoints import R101X3
from transforms.feeding import crew
from transforms.feeding.forking import CannotStart


@pytest.fixture
def decoding_here(monkeypatch):
    """Images are decoded on threads of this process, so that what a test replaces is replaced there, too."""

    def no_process(*_):
        raise CannotStart("not in this test")

    monkeypatch.setattr(crew, "Forking", no_process)


@pytest.fixture(autouse=True, scope="session")
def untrained_networks_are_kept():
    """The jobs of a test process load each network without trained weights once: a third of a small job's time."""
    from bit import load
    from transforms import counters
    from transforms.infer import BitModelHandler
    from transforms.model.fitting import Fitted

    load_handler, load_model = BitModelHandler._load, load.load

    @functools.lru_cache(4)
    def kept(settings):
        return load_handler(BitModelHandler(settings))._fitting

    def _load(handler):
        settings = handler._settings
        if settings.model.kind != "untrained" or load.load is not load_model:  # a test looks at the loading
            return load_handler(handler)
        fitted = Fitted(kept(settings))
        counters.PROCESS.loaded()
        return fitted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BitModelHandler, "_load", _load)
        yield


@pytest.fixture(scope="session")
def r101x3_checkpoint(tmp_path_factory):
    """The seeded R101x3 checkpoint, 1.5 GB: for tests in the group "r101x3", so that one process makes it."""
    folder = tmp_path_factory.mktemp("r101x3")
    path = R101X3.checkpoint(folder)
    yield path
    (folder / path).unlink()
