"""What on a GPU's host is too old for TensorFlow, said in one line before the model is loaded. No TensorFlow is imported here."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# cuDNN 9.3 to 9.5 abort the process on fused convolutions ("could not find any supported configs"): 9.24 is known to work.
CUDNN = (9, 24)
_CUDA_12 = (12, 0)  # what a driver must support for kernels that were compiled for its GPU, of any CUDA 12

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """Versions as (major, minor); None where they cannot be told."""

    name: str  # of the GPU
    capability: tuple[int, int] | None
    driver: tuple[int, int] | None  # the newest CUDA that the driver supports
    cudnn: tuple[int, int] | None
    cuda: tuple[int, int]  # that TensorFlow was built with
    built_for: tuple[
        str, ...
    ]  # of TensorFlow's kernels: "sm_80" compiled, "compute_90" for the driver to compile


def check() -> None:
    """Warns of what is too old, or of a GPU that TensorFlow does not use. Does nothing where there is no GPU."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    gpus = tensorflow.config.get_visible_devices("GPU")
    if gpus:
        build = tensorflow.sysconfig.get_build_info()
        details = tensorflow.config.experimental.get_device_details(gpus[0])
        for problem in problems(_host(build, details)):
            _log.warning("%s", problem)
    elif os.path.exists("/dev/nvidia0") and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"):
        _log.warning(
            "this host has a GPU that TensorFlow cannot use, so the model runs on the CPU: CUDA's libraries or its driver are "
            "missing: pip install 'bit-features[gpu]', and see nvidia-smi; TensorFlow's own messages name the library"
        )


def problems(host: Host) -> list[str]:
    """A line for each thing that is too old: what it is, and what to install."""
    out = []
    compiled = [_capability(name) for name in host.built_for if name.startswith("sm_")]
    oldest = min(compiled, default=(0, 0))
    needs_driver = _CUDA_12
    if host.capability and host.capability[0] > max(compiled, default=(99, 0))[0]:
        needs_driver = (
            host.cuda
        )  # only kernels that the driver must compile, which an older one does not understand
    if host.capability and host.capability < oldest:
        out.append(
            f"{host.name} has compute capability {_text(host.capability)}, and TensorFlow is built for {_text(oldest)} and "
            "newer: use another GPU, or CUDA_VISIBLE_DEVICES=-1 for the CPU"
        )
    if host.driver and host.driver < needs_driver:
        out.append(
            f"the driver of {host.name} supports CUDA {_text(host.driver)}, and TensorFlow needs {_text(needs_driver)}: "
            "install a newer driver on the host (nvidia-smi shows its version)"
        )
    if host.cudnn and host.cudnn < CUDNN:
        out.append(
            f"cuDNN {_text(host.cudnn)} is older than {_text(CUDNN)}: some versions abort with 'Autotuner could not find any "
            f"supported configs': pip install 'nvidia-cudnn-cu12>={_text(CUDNN)}'"
        )
    return out


def _host(build: Mapping[str, Any], details: Mapping[str, Any]) -> Host:
    return Host(
        name=details.get("device_name", "the GPU"),
        capability=details.get("compute_capability"),
        driver=_driver(),
        cudnn=_cudnn(),
        cuda=_version(build.get("cuda_version", "")) or _CUDA_12,
        built_for=tuple(build.get("cuda_compute_capabilities", ())),
    )


def _driver() -> tuple[int, int] | None:
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if failed else (number.value // 1000, number.value % 1000 // 10)


def _cudnn() -> tuple[int, int] | None:
    try:
        # The one that TensorFlow has loaded: it has listed the GPUs.
        get = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion
    except (OSError, AttributeError):
        return None
    get.restype = ctypes.c_size_t
    return get() // 10000, get() % 10000 // 100


def _capability(name: str) -> tuple[int, int]:
    digits = name.split("_")[1]
    return int(digits[:-1]), int(digits[-1])


def _version(text: str) -> tuple[int, int] | None:
    parts = text.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and "".join(parts[:2]).isdigit() else None


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
