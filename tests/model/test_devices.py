"""One GPU per process: real processes and real locks, with a list of names in place of the GPUs."""

import os
import signal
import subprocess
import sys

import pytest

from tests import helpers
from transforms.model import devices

# Takes one of the GPUs named by its arguments, prints which, and keeps it until it is killed.
HOLDER = """
import sys, time
from types import SimpleNamespace
from transforms.model import devices

names = sys.argv[1:]
config = SimpleNamespace(
    list_physical_devices=lambda kind: names,
    set_visible_devices=lambda left, kind: print(kind, *left, flush=True),
)
devices._PATIENCE_SECONDS = 0.5
devices.take_one(config)
devices.take_one(config)
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that takes a GPU; returns it and the lines with the GPUs it left itself."""
    started = []

    def start(*names, visible=None):
        environment = {**os.environ, devices.LOCKS_VARIABLE: str(tmp_path / "locks")}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *names],
            cwd=helpers.REPO,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        lines = []
        while (line := process.stdout.readline().strip()) != "taken":
            assert line, process.stderr.read()
            lines.append(line)
        return process, lines

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_each_process_of_a_host_has_a_gpu_of_its_own(holder):
    assert [holder("a", "b", "c")[1] for _ in range(3)] == [["GPU a"], ["GPU b"], ["GPU c"]]


def test_the_gpu_of_a_process_that_was_killed_is_free_again(holder):
    holder("a", "b")
    lost, _ = holder("a", "b")
    lost.send_signal(signal.SIGKILL)
    lost.wait()
    assert holder("a", "b")[1] == ["GPU b"]


def test_more_processes_than_gpus_share_and_say_so(holder):
    holder("a", "b")
    holder("a", "b")
    third, lines = holder("a", "b")
    assert lines in (["GPU a"], ["GPU b"])
    third.kill()
    errors = third.communicate()[1]
    assert "all 2 GPUs (0, 1) are in use by other processes (locks in" in errors
    assert "Start no more worker processes on a host than it has GPUs" in errors


def test_processes_that_see_different_gpus_agree_on_their_names(holder):
    assert holder("a", "b", visible="2,3")[1] == ["GPU a"]
    assert holder("c", "d", visible="3,2")[1] == ["GPU c"]
    assert holder("e", "f", visible="2,4")[1] == ["GPU f"]


@pytest.mark.parametrize("names", [(), ("a",)])
def test_a_process_that_sees_one_gpu_or_none_leaves_things_alone(holder, names):
    assert holder(*names)[1] == []
    assert holder(*names)[1] == []


def test_names_are_those_of_the_environment_where_it_has_some():
    assert devices.names_of(2, None) == ["0", "1"]
    assert devices.names_of(2, "") == ["0", "1"]
    assert devices.names_of(2, "5, GPU-1b/2") == ["5", "GPU-1b/2"]
    assert devices.names_of(2, "5") == ["0", "1"]  # TensorFlow saw more than that


def test_names_that_are_no_file_names_can_be_claimed(tmp_path):
    index, lock = devices.claim(["MIG-GPU-1/2/3"], str(tmp_path))
    assert index == 0
    os.close(lock)
    (path,) = tmp_path.iterdir()
    assert path.name == "MIG-GPU-1_2_3"


def test_workers_in_processes_of_their_own_each_take_a_gpu(tmp_path):
    """The complete job, whose workers see a list of two GPUs in place of TensorFlow's."""
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    gpus = tmp_path / "gpus"
    gpus.mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        f"""
import os
from types import SimpleNamespace
from transforms.model import devices

def set_visible_devices(left, kind):
    open(os.path.join({str(gpus)!r}, str(os.getpid())), "w").write(left[0])

devices._tensorflow_config = lambda: SimpleNamespace(
    list_physical_devices=lambda kind: ["first", "second"], set_visible_devices=set_visible_devices
)
"""
    )
    done = helpers.job_process(
        *helpers.TINY,
        f"--input={pattern}",
        f"--output={tmp_path / 'out'}",
        "--direct_num_workers=2",
        "--direct_running_mode=multi_processing",
        env={
            "PYTHONPATH": f"{tmp_path / 'site'}:{helpers.REPO}",
            devices.LOCKS_VARIABLE: str(tmp_path / "locks"),
        },
    )
    assert done.stdout == ""
    assert sorted(path.read_text() for path in gpus.iterdir()) == ["first", "second"]
    helpers.job(f"--input={pattern}", output=tmp_path / "direct")
    assert helpers.contents(tmp_path / "out") == helpers.contents(tmp_path / "direct")
