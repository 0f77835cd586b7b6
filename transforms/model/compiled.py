"""Compiles a model for a GPU before its first batch, and has XLA keep the result for later processes.

XLA takes half a minute for R101x3. Its cache of compiled programs knows a program by its graph and the name of its
function, not by device, versions or XLA's own flags, so those stand in the folder's name. (The precision stands in the
function's name: `bit.load`.) TensorFlow reads its flags when it first compiles, so they can be set after its import.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from importlib import metadata

import numpy as np

from transforms import counters
from transforms.model.fitting import Fitted, ModelFailed, OutOfMemory
from transforms.model.loaded import LoadedModel

_FLAG = "--tf_xla_persistent_cache_directory"
_VARIABLE = "TF_XLA_FLAGS"
# Measured on an H200 (`benchmarks/README.md`): matrix products are faster in cuBLAS than as XLA's own Triton kernels, and
# operations whose result does not depend on what was tried first, in each process, cost nothing.
_XLA_FLAGS = ("--xla_gpu_enable_triton_gemm=false", "--xla_gpu_deterministic_ops=true")
# By TensorFlow, and by h5py, OpenCV and scikit-learn, which Keras brings along.
_SET_BY_IMPORT = {
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "1",
    "HDF5_PLUGIN_PATH": "disable",
    "KMP_DUPLICATE_LIB_OK": "True",
    "KMP_INIT_AT_FORK": "FALSE",
    "LD_LIBRARY_PATH": "",
    "TF2_BEHAVIOR": "1",
    "TPU_ML_PLATFORM": "Tensorflow",
}
_DEVICE_FILES = (
    "/dev/nvidiactl",
    "/dev/nvidia0",
    "/dev/dxg",
)  # of NVIDIA's driver on Linux, and below Windows
_FREE_BYTES = 1 << 30  # 1 GiB; compiling fails where XLA cannot write

_log = logging.getLogger(__name__)


def keep(folder: str) -> str:
    """Has XLA keep what it compiles for this process's GPU below `folder`; returns where, or '' if that is not ours to delete.

    On a CPU nothing is compiled that is worth it. Call it before anything is compiled.
    """
    from bit.tensorflow import tf

    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return ""
    device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return keep_for(device, tf.__version__, folder)


def set_environment(device_files: Sequence[str] = _DEVICE_FILES) -> None:
    """Sets what the import of TensorFlow sets, and XLA's flags where there is a GPU, which are read once.

    To be called before TensorFlow is imported on a thread: a new variable moves the environment in memory, and the process
    dies if another thread, such as one that sets up TLS, is reading it."""
    for name, value in _SET_BY_IMPORT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TPU_ML_PLATFORM_VERSION", metadata.version("tensorflow"))
    if any(map(os.path.exists, device_files)):
        os.environ["XLA_FLAGS"] = with_ours(os.environ.get("XLA_FLAGS", ""))


def with_ours(flags: str) -> str:
    """XLA's flags with ours, except those that are set already. The name of a file with flags stays as it is."""
    if flags and not flags.lstrip().startswith("-"):
        return flags
    named = {flag.split("=")[0] for flag in flags.split()}
    return " ".join([flags, *(flag for flag in _XLA_FLAGS if flag.split("=")[0] not in named)]).strip()


def keep_for(device: str, tensorflow_version: str, folder: str) -> str:
    """`keep` for a device by its name. TF_XLA_FLAGS that name a folder of their own, or an empty one, stay as they are."""
    flags = os.environ.get(_VARIABLE, "")
    if ours := _kept_by_us(flags, folder):
        return ours
    if _FLAG in flags:
        return ""
    xla_flags = hashlib.sha256(os.environ.get("XLA_FLAGS", "").encode()).hexdigest()[:8]
    parts = (device, f"tensorflow-{tensorflow_version}", f"cudnn-{_cudnn_version()}", f"flags-{xla_flags}")
    path = os.path.join(folder, re.sub(r"[^\w.-]+", "_", "-".join(parts)))
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK) or shutil.disk_usage(path).free < _FREE_BYTES:
            raise OSError("it is not writable, or nearly full")
    except OSError as error:
        _log.warning(
            "each process compiles the model anew, as the result cannot be kept in %s: %s", path, error
        )
        return ""
    os.environ[_VARIABLE] = f"{flags} {_FLAG}={path}".strip()
    return path


def _kept_by_us(flags: str, folder: str) -> str:
    """The folder below `folder` that an earlier model of this process had set, or ''."""
    match = re.search(rf"{_FLAG}=({re.escape(folder)}/\S+)", flags)
    return match[1] if match else ""


def _cudnn_version() -> str:
    """Such as '91900' or '9.19.0.56', from the library or its package; 'unknown' where neither is found."""
    with contextlib.suppress(OSError, AttributeError):
        return str(ctypes.CDLL("libcudnn.so.9").cudnnGetVersion())
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("nvidia-cudnn-cu12")
    return "unknown"


def compile_first(model: LoadedModel, kept: str) -> Fitted:
    """The model, after an empty batch has passed through it: compiled, and with a batch that fits its device.

    `kept` is the folder of `keep`. If what lies there cannot be used, it is deleted, and the model compiled anew.
    Raises ModelFailed if the model does not run at all, OutOfMemory if not even with one image.
    """
    known = _entries(kept)
    counters.PROCESS.does(
        f"compiling for {model.device}, about 30 s"
        + (", unless an earlier run has done so" if known else ", once")
    )
    try:
        return _ran(model)
    except OutOfMemory:
        raise
    except Exception as error:
        if not known:
            raise _failed(model, error, kept) from error
        _log.warning("compiling the model anew, as what was kept in %s cannot be used: %s", kept, error)
    for path in known:
        with contextlib.suppress(OSError):
            os.remove(path)
    again = model.resized(model.batch_size)  # a function whose compilation has failed stays failed
    try:
        return _ran(again)
    except OutOfMemory:
        raise
    except Exception as error:
        raise _failed(model, error, kept) from error


def _ran(model: LoadedModel) -> Fitted:
    fitted = Fitted(model)
    fitted(np.zeros((model.batch_size, model.image_size, model.image_size, 3), np.float32))
    return fitted


def _entries(kept: str) -> list[str]:
    return [entry.path for entry in os.scandir(kept) if entry.is_file()] if kept else []


def _failed(model: LoadedModel, error: Exception, kept: str) -> ModelFailed:
    hint = f"; if it cannot keep what it compiles, start with {_VARIABLE}={_FLAG}=" if kept else ""
    return ModelFailed(
        f"the model does not run on {model.device}: {type(error).__name__}: {error}. Likely causes: a driver, CUDA or cuDNN "
        f"that does not fit this TensorFlow or GPU{hint}"
    )
