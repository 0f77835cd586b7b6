"""Settings and fixtures of all test modules; the settings are read before TensorFlow is imported."""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Else each of the many processes that tests start would compile the modules of the project anew.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
# As at a terminal, also where the tests were started to ignore them: what a job was started to ignore it lets pass.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

import functools

import pytest

import bit  # noqa: F401  # before TensorFlow, which some modules import before anything of the project
from pipeline import worker_process
from tests import kept, warm
from tests.checkpoints import R101X3
from transforms.feeding import crew, forking
from transforms.feeding.forking import CannotStart


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="also run the tests that are marked so")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--soak"):
        chosen = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = chosen


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
    def fitting(settings):
        return load_handler(BitModelHandler(settings))._fitting

    def _load(handler):
        settings = handler._settings
        if settings.model.kind != "untrained" or load.load is not load_model:  # a test looks at the loading
            return load_handler(handler)
        fitted = Fitted(fitting(settings))
        counters.PROCESS.loaded()
        return fitted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BitModelHandler, "_load", _load)
        yield


@pytest.fixture(autouse=True, scope="session")
def beam_looks_once():
    """Not so in most of the processes that tests start, where Beam is as it is."""
    with kept.looks_of_beam():
        yield


@pytest.fixture(autouse=True, scope="session")
def processes_start_warm():
    """Imports are paid once per test process, not by each job; tests/feeding starts processes as a job does."""
    forkers, workers = warm.Forkers(), warm.Workers()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forking, "started", forkers.started)
        patched.setattr(worker_process, "started", workers.started)
        yield
    forkers.close()
    workers.close()


@pytest.fixture(scope="session")
def r101x3_checkpoint(tmp_path_factory):
    """The seeded R101x3 checkpoint, 1.5 GB: for tests in the group "r101x3", so that one process makes it."""
    folder = tmp_path_factory.mktemp("r101x3")
    path = R101X3.checkpoint(folder)
    yield path
    (folder / path).unlink()
