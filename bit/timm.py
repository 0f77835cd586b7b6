"""The same checkpoints as timm keeps them on Hugging Face: `.safetensors`, other names, kernels in another order of axes.

Source: timm `resnetv2.py`, whose `_load_weights` makes its weights from the official `.npz`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import safetensors

from bit.models import Architecture, UnusableModel
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZED, aligned

SUFFIX = ".safetensors"
_HWIO = (2, 3, 1, 0)  # from PyTorch's OIHW
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_OUTSIDE_UNITS = {
    "stem.conv.weight": f"root_block/{STANDARDIZED}",
    "norm.weight": "group_norm/gamma",
    "norm.bias": "group_norm/beta",
    "head.fc.weight": HEAD_KERNEL,
    "head.fc.bias": HEAD_BIAS,
}
_IN_UNIT = re.compile(
    r"stages\.(\d+)\.blocks\.(\d+)\.(?:conv([123])\.weight|norm([123])\.(weight|bias)|(downsample)\.conv\.weight)"
)


@dataclass(frozen=True)
class TimmCheckpoint:
    """A `.safetensors` of timm, checked by `bit.checkpoint.open_checkpoint`. Implements `bit.weights.Weights`."""

    path: str
    architecture: Architecture
    classes: int
    names: Mapping[str, str]  # official name -> timm's

    @cached_property
    def _file(self) -> Any:
        return safetensors.safe_open(self.path, "np")

    def array(self, name: str) -> np.ndarray:
        """See `Weights.array`; writeable. Raises UnusableModel if it cannot be read."""
        try:
            value = self._file.get_tensor(self.names[name])
        except (safetensors.SafetensorError, OSError) as error:
            raise UnusableModel(
                f"{self.path}: {name} cannot be read ({error}); fetch the file again"
            ) from error
        value = value.transpose(_HWIO) if value.ndim == 4 else value
        out = aligned(4 * value.size).view(np.float32).reshape(value.shape)
        out[...] = value
        return out


def official_name(name: str) -> str:
    """What the official checkpoints call the array that timm calls `name`; '/' and `name` if they have none such."""
    if name in _OUTSIDE_UNITS:
        return _OUTSIDE_UNITS[name]
    match = _IN_UNIT.fullmatch(name)
    if not match:
        return f"/{name}"
    block, unit, conv, norm, parameter, shortcut = match.groups()
    at = f"block{int(block) + 1}/unit{int(unit) + 1:02d}"
    if shortcut:
        return f"{at}/a/proj/{STANDARDIZED}"
    if conv:
        return f"{at}/{' abc'[int(conv)]}/{STANDARDIZED}"
    return f"{at}/{' abc'[int(norm)]}/group_norm/{'gamma' if parameter == 'weight' else 'beta'}"


def headers(path: str) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype], dict[str, str]]:
    """Shapes, dtypes and timm's names by official name; shapes are those of the official arrays.

    Raises UnusableModel if it is no readable file of this format, or holds numbers that NumPy does not have.
    """
    shapes, dtypes, names = {}, {}, {}
    try:
        with safetensors.safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                header, official = file.get_slice(name), official_name(name)
                shape = tuple(header.get_shape())
                shapes[official] = tuple(shape[axis] for axis in _HWIO) if len(shape) == 4 else shape
                if header.get_dtype() not in _DTYPES:
                    raise UnusableModel(f"{path}: {name} holds {header.get_dtype()}; convert it to float32")
                dtypes[official], names[official] = np.dtype(_DTYPES[header.get_dtype()]), name
    except FileNotFoundError:
        raise UnusableModel(f"no file {path}: check the path") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UnusableModel(
            f"{path} is not a complete {SUFFIX} file ({error}); the download may have been cut off"
        ) from error
    return shapes, dtypes, names
