"""Compiling ahead, and what XLA keeps: in folders that tell devices and versions apart, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import helpers
from tests.model.remote import Remote
from tests.model.test_feed import Harmless, too_large
from transforms import counters
from transforms.model import compiled
from transforms.model.fitting import ModelFailed

FLAG = "--tf_xla_persistent_cache_directory="


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """TF_XLA_FLAGS and XLA_FLAGS are unset, and as before afterwards."""
    for name in ("TF_XLA_FLAGS", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_each_device_and_version_has_a_folder_of_its_own(tmp_path, flags):
    folders = []
    for device, version, xla in (
        ("NVIDIA H200", "2.21.0", ""),
        ("NVIDIA L4", "2.21.0", ""),
        ("NVIDIA H200", "2.22.0", ""),
        ("NVIDIA H200", "2.21.0", "--xla_gpu_autotune_level=0"),
    ):
        flags.setenv("XLA_FLAGS", xla)
        flags.delenv("TF_XLA_FLAGS", raising=False)
        folders.append(compiled.keep_for(device, version, str(tmp_path)))
        assert os.environ["TF_XLA_FLAGS"] == f"{FLAG}{folders[-1]}"
        assert (
            compiled.keep_for(device, version, str(tmp_path)) == folders[-1]
        )  # a second model of the process
    assert len(set(folders)) == 4
    assert all(os.path.isdir(folder) for folder in folders)
    assert os.path.basename(folders[0]).startswith("NVIDIA_H200-tensorflow-2.21.0-cudnn-")


@pytest.mark.parametrize("own", [FLAG, f"{FLAG}/somewhere"])
def test_flags_that_say_where_stay_as_they_are(tmp_path, flags, own):
    flags.setenv("TF_XLA_FLAGS", own)
    assert compiled.keep_for("NVIDIA H200", "2.21.0", str(tmp_path)) == ""
    assert os.environ["TF_XLA_FLAGS"] == own
    assert list(tmp_path.iterdir()) == []


def test_other_flags_stay(tmp_path, flags):
    flags.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
    folder = compiled.keep_for("NVIDIA H200", "2.21.0", str(tmp_path))
    assert os.environ["TF_XLA_FLAGS"] == f"--tf_xla_clustering_debug {FLAG}{folder}"


def test_a_folder_that_cannot_be_written_is_not_used(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert compiled.keep_for("NVIDIA H200", "2.21.0", str(tmp_path / "file" / "below")) == ""
    assert "TF_XLA_FLAGS" not in os.environ
    assert "each process compiles the model anew" in caplog.text


def test_a_disk_that_is_nearly_full_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "_FREE_BYTES", 1 << 60)
    assert compiled.keep_for("NVIDIA H200", "2.21.0", str(tmp_path)) == ""
    assert "nearly full" in caplog.text


def test_a_model_is_compiled_before_its_first_batch_and_says_so(tmp_path):
    remote = Remote(Harmless())
    compiled.compile_first(remote, "")
    assert remote.log == ["call of 8"]
    assert counters.PROCESS.doing == "compiling for stand-in, about 30 s, once"
    (tmp_path / "entry").write_text("")
    compiled.compile_first(remote, str(tmp_path))
    assert counters.PROCESS.doing == "compiling for stand-in, about 30 s, unless an earlier run has done so"


def test_a_batch_that_does_not_fit_is_halved_there():
    model = compiled.compile_first(Remote(Harmless(), too_large("launch", 3)), "")
    assert model.batch_size == 8
    assert model._fitting.batch_size == 2


def test_what_was_kept_and_cannot_be_used_is_deleted(tmp_path, caplog):
    def fails(step, pixels):
        if list(tmp_path.iterdir()):
            raise RuntimeError("Serialized cache key does not match")

    (tmp_path / "entry").write_text("damaged")
    remote = Remote(Harmless(), fails)
    model = compiled.compile_first(remote, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert model._fitting is not remote
    assert "compiling the model anew" in caplog.text


def test_a_model_that_does_not_run_names_the_device():
    def fails(step, pixels):
        raise RuntimeError("Autotuner could not find any supported configs")

    with pytest.raises(
        ModelFailed, match=r"does not run on stand-in: RuntimeError: Autotuner.*Likely causes: a driver"
    ):
        compiled.compile_first(Remote(Harmless(), fails), "")


def test_flags_of_xla_that_the_user_set_stay():
    both = "--xla_gpu_enable_triton_gemm=false --xla_gpu_deterministic_ops=true"
    assert compiled.with_ours("") == both
    assert compiled.with_ours(both) == both
    mine = "--xla_gpu_deterministic_ops=false --xla_dump_to=/x"
    assert compiled.with_ours(mine) == f"{mine} --xla_gpu_enable_triton_gemm=false"
    similar = "--xla_gpu_enable_triton_gemm_int4=true"
    assert compiled.with_ours(similar) == f"{similar} {both}"
    assert compiled.with_ours("/etc/flags") == "/etc/flags"


def test_flags_are_set_where_there_is_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    compiled.set_environment([str(tmp_path / "absent")])
    assert os.environ["XLA_FLAGS"] == "--mine=1"
    compiled.set_environment([str(tmp_path / "absent"), str(tmp_path)])
    assert os.environ["XLA_FLAGS"] == compiled.with_ours("--mine=1")


def test_xla_knows_the_flags_that_are_set():
    """It ends a process with flags that it does not know."""
    program = (
        "import tensorflow as tf; print(tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(2)).numpy())"
    )
    environment = {**os.environ, "XLA_FLAGS": compiled.with_ours("")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "[2. 2.]\n", done.stderr


# XLA on the CPU in place of a GPU's.
PROGRAM = """
import sys, time
import numpy as np
import tensorflow as tf
plain = tf.function
tf.function = lambda *a, **k: plain(*a, **{**k, "jit_compile": True})
from bit import load, models, tensorfloat32
from transforms.model import compiled
names, plain_compiled = [], tensorfloat32.compiled
tensorfloat32.compiled = lambda function, *a: names.append(function.name.decode()) or plain_compiled(function, *a)
kept = compiled.keep_for("CPU", tf.__version__, sys.argv[1])
model = load.load(models.resolve("untrained/tiny"), "", image_size=32, batch_size=2)
model.device, model.put = "CPU", tf.constant
fitted = compiled.compile_first(model, kept)
print(names[0], fitted._fitting is model)
print(fitted(np.ones((2, 32, 32, 3), np.float32))["embedding"].tobytes().hex())
"""


def test_a_later_process_uses_what_an_earlier_one_compiled(tmp_path):
    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            cwd=helpers.REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def kept() -> dict[str, tuple[int, int]]:
        files = {path.name: path.stat() for path in tmp_path.rglob("xla_compile_cache*")}
        return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in files.items()}

    first, files = run(), kept()
    assert "features_float32" in first[0]
    assert len(files) == 1
    assert run() == first
    assert kept() == files  # found by the same name, and not written again
    (path,) = tmp_path.rglob("xla_compile_cache*")
    path.write_bytes(b"damaged")
    again = run()
    assert again[0].endswith("False")
    assert again[1] == first[1]
    assert b"damaged" not in {path.read_bytes() for path in tmp_path.rglob("xla_compile_cache*")}


def test_the_import_of_tensorflow_adds_nothing_to_the_environment():
    """It runs on a thread, and what another thread reads meanwhile would move."""
    program = """
import os, sys
from transforms.model import compiled
compiled.set_environment([])
before = dict(os.environ)
added = []
sys.addaudithook(lambda event, arguments: added.append(arguments[0]) if event == "os.putenv" else None)
import tensorflow
print([name for name in added if name.decode() not in before])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
