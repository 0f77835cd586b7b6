"""Several GPUs on one host: on every engine, each worker process takes one that no other process has.

By default, TensorFlow gives every process all GPUs of the host and works on the first. A process that can see more than
one therefore locks a file that represents one of them, in a folder of the host, and hides the others. The lock ends with
the process, however that ends. A process that sees only one GPU uses it without a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

LOCKS_VARIABLE = "BIT_GPU_LOCK_DIR"
# The GPU of a lost worker stays locked for its replacement until the system has cleaned up.
_PATIENCE_SECONDS = 30.0

_log = logging.getLogger(__name__)
_taking = threading.Lock()
_locks: list[int] = []  # the descriptor of this process's lock, until it ends


def take_one(config: Any = None) -> None:
    """Leaves this process one of the GPUs it can see. Must run before TensorFlow uses any; further calls do nothing.

    `config`: `tensorflow.config`, or what stands in for it in tests.
    """
    with _taking:
        if _locks:
            return
        config = config or _tensorflow_config()
        gpus = config.list_physical_devices("GPU")
        if len(gpus) < 2:
            return
        names = names_of(len(gpus), os.environ.get("CUDA_VISIBLE_DEVICES"))
        index, lock = claim(names, lock_folder(), _PATIENCE_SECONDS)
        _locks.append(lock)
        config.set_visible_devices([gpus[index]], "GPU")
        _log.info("process %d works on GPU %s of %d", os.getpid(), names[index], len(gpus))


def expected() -> str:
    """What a model will run on here, for people: 'the CPU', or the name of a GPU. Does not load TensorFlow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not os.path.exists("/dev/nvidia0") or visible in ("", "-1"):
        return "the CPU"
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
            if name := re.search(r"^Model:\s*(.+)$", stream.read(), re.MULTILINE):
                return name[1].strip()
    return "a GPU"


def gpus_in_use() -> int:
    """Number of GPUs that TensorFlow uses in this process; 0 also if TensorFlow is not loaded."""
    loaded = sys.modules.get("tensorflow")
    return len(loaded.config.get_visible_devices("GPU")) if loaded else 0


def fast_precision() -> str:
    """The precision in which this process's GPU, or else this machine's CPU, is faster than in float32; '' if none."""
    if gpus_in_use():
        config = sys.modules["tensorflow"].config
        details = config.experimental.get_device_details(config.get_visible_devices("GPU")[0])
        return "bfloat16" if details.get("compute_capability", (0, 0)) >= (8, 0) else "float16"
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
            return "bfloat16" if re.search(r"\b(avx512_bf16|amx_bf16)\b", stream.read()) else ""
    except OSError:
        return ""


def _tensorflow_config() -> Any:
    from bit.tensorflow import tf

    return tf.config


def names_of(count: int, visible: str | None) -> list[str]:
    """The host's names of the `count` GPUs of a process; `visible` is its CUDA_VISIBLE_DEVICES."""
    listed = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return listed[:count] if len(listed) >= count else [str(index) for index in range(count)]


def lock_folder() -> str:
    """The folder of this host's locks, created if missing: one per user, or $BIT_GPU_LOCK_DIR."""
    folder = os.environ.get(LOCKS_VARIABLE)
    folder = folder or os.path.join(tempfile.gettempdir(), f"bit-features-gpus-{os.getuid()}")
    os.makedirs(folder, exist_ok=True)
    return folder


def claim(names: Sequence[str], folder: str, patience_seconds: float = 0.0) -> tuple[int, int]:
    """Locks the first of `names` that no other process has locked; returns its index and the lock's descriptor.

    If all stay locked for `patience_seconds`, the process shares one, chosen by its id, and logs a warning.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        for index, name in enumerate(names):
            lock = _open(folder, name)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            return index, lock
        if time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    index = os.getpid() % len(names)
    _log.warning(
        "all %d GPUs (%s) are in use by other processes (locks in %s), so this one shares GPU %s. Start no more worker "
        "processes on a host than it has GPUs",
        len(names),
        ", ".join(names),
        folder,
        names[index],
    )
    return index, _open(folder, names[index])


def _open(folder: str, name: str) -> int:
    path = os.path.join(folder, re.sub(r"[^\w.-]", "_", name))
    # Not inherited: a child that outlives this process must not keep the GPU.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
