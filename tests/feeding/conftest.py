import pytest

from pipeline import worker_process
from tests import warm
from transforms.feeding import forking


@pytest.fixture(autouse=True)
def processes_start_cold(monkeypatch):
    """As in a job: these tests are about the start, too."""
    monkeypatch.setattr(forking, "started", warm.COLD_FORKER)
    monkeypatch.setattr(worker_process, "started", warm.COLD_WORKER)
