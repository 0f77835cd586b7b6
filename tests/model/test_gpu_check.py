"""What a start on a GPU says of versions that are too old."""

import dataclasses
import os
import re
import sys
import types

import pytest

from transforms.model import gpu_check
from transforms.model.gpu_check import Host

BUILT_FOR = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")
H200 = Host("NVIDIA H200", (9, 0), (13, 0), (9, 24), (12, 5), BUILT_FOR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        (dict.fromkeys(("capability", "driver", "cudnn")), None),
        ({"cudnn": (9, 3)}, r"cuDNN 9\.3 is older than 9\.24: .*pip install 'nvidia-cudnn-cu12>=9\.24'"),
        ({"cudnn": (10, 0)}, None),
        # Kernels for Hopper are compiled by the driver, which must know TensorFlow's CUDA; others are compiled already.
        ({"driver": (12, 4)}, r"driver of NVIDIA H200 supports CUDA 12\.4, and TensorFlow needs 12\.5"),
        ({"driver": (12, 4), "name": "NVIDIA A100", "capability": (8, 0)}, None),
        ({"driver": (11, 8), "name": "NVIDIA A100", "capability": (8, 0)}, r"CUDA 11\.8, .* needs 12\.0"),
        ({"name": "Tesla K80", "capability": (3, 7)}, r"Tesla K80 has compute capability 3\.7, .* for 6\.0"),
    ],
)
def test_what_is_too_old_is_named_with_what_to_install(change, message):
    found = gpu_check.problems(dataclasses.replace(H200, **change))
    if message is None:
        assert found == []
    else:
        (line,) = found
        assert re.search(message, line)
        assert "\n" not in line


def stand_in(gpus):
    details = {"device_name": "NVIDIA H200", "compute_capability": (9, 0)}
    return types.SimpleNamespace(
        config=types.SimpleNamespace(
            get_visible_devices=lambda kind: gpus,
            experimental=types.SimpleNamespace(get_device_details=lambda gpu: details),
        ),
        sysconfig=types.SimpleNamespace(
            get_build_info=lambda: {"cuda_version": "12.5.1", "cuda_compute_capabilities": BUILT_FOR}
        ),
    )


def test_the_start_says_it_once_per_problem(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorflow", stand_in(["GPU:0"]))
    monkeypatch.setattr(gpu_check, "_driver", lambda: (12, 2))
    monkeypatch.setattr(gpu_check, "_cudnn", lambda: (9, 5))
    gpu_check.check()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the driver of NVIDIA H200 supports CUDA 12.2, and TensorFlow needs 12.5",
        "cuDNN 9.5 is older than 9.24",
    ]


@pytest.mark.parametrize(
    ("device", "hidden", "said"), [(True, None, True), (True, "-1", False), (False, None, False)]
)
def test_a_gpu_that_is_not_used_is_not_passed_over(device, hidden, said, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorflow", stand_in([]))
    monkeypatch.setattr(os.path, "exists", lambda path: device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    gpu_check.check()
    assert ("TensorFlow cannot use" in caplog.text) == said


def test_without_cuda_nothing_is_known():
    assert gpu_check._version("12.5.1") == (12, 5)
    assert gpu_check._version("") is None
    gpu_check.check()  # on this machine
