"""Several GPUs on one host: each worker process takes one that no other has, on every engine alike.

Left alone, TensorFlow shows every process all GPUs of the host and works on the first. A process that can see more than
one therefore locks a file that stands for one of them, in a folder of the host, and hides the others. The lock goes with the
process, however that ends. A process that sees one GPU, or none, shares it with whoever has it.
"""

from __future__ import annotations

import fcntl
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
# A worker that replaces one which has just been lost finds its GPU held until the system has cleaned up.
_PATIENCE_SECONDS = 30.0

_log = logging.getLogger(__name__)
_taking = threading.Lock()
_held: list[int] = []  # the descriptor of this process's lock, until it ends


def take_one(config: Any = None) -> None:
    """Leaves this process one GPU of those that it can see. Must run before TensorFlow touches any; again is harmless.

    `config` stands for `tensorflow.config`.
    """
    with _taking:
        if _held:
            return
        config = config or _tensorflow_config()
        found = config.list_physical_devices("GPU")
        if len(found) < 2:
            return
        names = names_of(len(found), os.environ.get("CUDA_VISIBLE_DEVICES"))
        index, lock = claim(names, lock_folder(), _PATIENCE_SECONDS)
        _held.append(lock)
        config.set_visible_devices([found[index]], "GPU")
        _log.info("process %d works on GPU %s of %d", os.getpid(), names[index], len(found))


def gpus_in_use() -> int:
    """GPUs that TensorFlow works on in this process; 0 also where nothing has loaded TensorFlow."""
    loaded = sys.modules.get("tensorflow")
    return len(loaded.config.get_visible_devices("GPU")) if loaded else 0


def fast_precision() -> str:
    """The precision in which this process's GPU, or this machine's CPU, multiplies faster than in float32; '' if none."""
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
    import tensorflow as tf

    return tf.config


def names_of(count: int, visible: str | None) -> list[str]:
    """What the `count` GPUs of a process are called by the host: `visible` is its CUDA_VISIBLE_DEVICES."""
    listed = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return listed[:count] if len(listed) >= count else [str(index) for index in range(count)]


def lock_folder() -> str:
    """Where the locks of this host are: one folder a user, or what BIT_GPU_LOCK_DIR names."""
    folder = os.environ.get(LOCKS_VARIABLE)
    folder = folder or os.path.join(tempfile.gettempdir(), f"bit-features-gpus-{os.getuid()}")
    os.makedirs(folder, exist_ok=True)
    return folder


def claim(names: Sequence[str], folder: str, patience_seconds: float = 0.0) -> tuple[int, int]:
    """Takes the first of `names` that no other process holds: its index, and the descriptor that keeps it.

    Where all stay taken for `patience_seconds` the process shares one, its id decides which, and a warning says so.
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
        "all %d GPUs (%s) are held by other processes, see %s: this one shares GPU %s. Start no more worker processes on a "
        "host than it has GPUs",
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
