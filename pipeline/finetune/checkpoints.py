"""Checkpoints of a training run: complete or absent, and few of them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # which imports TensorFlow
    from bit.training import Trainer

_NAME = re.compile(r"step-(\d{9})\.npz")
_KEPT = 2


@dataclass(frozen=True)
class State:
    """Where a run stands besides its weights; the order of the data follows from the step."""

    step: int  # the next update
    micro_batch: int
    scale: float


def save(folder: Path, trainer: Trainer, step: int) -> None:
    """Writes a checkpoint before the update `step`, then removes all but the newest two."""
    folder.mkdir(exist_ok=True)
    state = json.dumps(asdict(State(step, trainer.micro_batch, trainer.scale)))
    arrays: dict[str, Any] = {f"trained/{name}": value for name, value in trainer.trained().items()}
    arrays |= {f"momentum/{name}": value for name, value in trainer.momentum().items()}
    replace_file(
        folder / f"step-{step:09d}.npz", lambda stream: np.savez(stream, state=np.array(state), **arrays)
    )
    for old in _all(folder)[:-_KEPT]:
        old.unlink()


def restore(folder: Path, trainer: Trainer) -> int:
    """Continues from the newest checkpoint; returns the next update, 0 if there is none."""
    if not (paths := _all(folder)):
        return 0
    with np.load(paths[-1]) as stored:
        state = State(**json.loads(str(stored["state"])))
        parts = [
            {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
            for prefix in ("trained/", "momentum/")
        ]
    trainer.restore(*parts)
    trainer.micro_batch, trainer.scale = state.micro_batch, state.scale
    return state.step


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if _NAME.fullmatch(path.name))


def replace_file(path: Path, write) -> None:
    """Calls `write` with a binary stream; `path` then has all of it, or what it had before."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
