"""Checkpoints of a training run: complete or absent, and few of them."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.console import say

if TYPE_CHECKING:  # which imports TensorFlow
    from bit.training import Trainer

DAMAGED = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)  # of an .npz that is read
_NAME = re.compile(r"step-(\d{9})\.npz")
_KEPT = 2
_PARTIAL = ".partial"


@dataclass(frozen=True)
class State:
    """Where a run stands besides its weights; the order of the data follows from the step."""

    step: int  # the next update
    micro_batch: int
    scale: float
    good_steps: int = 0  # since the scale was halved


def save(folder: Path, trainer: Trainer, step: int) -> None:
    """Writes a checkpoint before the update `step`, then removes all but the newest two."""
    folder.mkdir(exist_ok=True)
    _remove_partials(folder)
    state = json.dumps(asdict(State(step, trainer.micro_batch, trainer.scale, trainer.good_steps)))
    arrays: dict[str, Any] = {f"trained/{name}": value for name, value in trainer.trained().items()}
    arrays |= {f"momentum/{name}": value for name, value in trainer.momentum().items()}
    replace_file(
        folder / f"step-{step:09d}.npz", lambda stream: np.savez(stream, state=np.array(state), **arrays)
    )
    for old in _all(folder)[:-_KEPT]:
        old.unlink()


def restore(folder: Path, trainer: Trainer) -> int:
    """Continues from the newest checkpoint that is intact; returns the next update, 0 if there is none."""
    _remove_partials(folder)
    for path in reversed(_all(folder)):
        try:
            state, parts = _read(path, trainer)
        except (*DAMAGED, KeyError, TypeError) as error:
            say(f"{path} is damaged ({error}): going on from the checkpoint before it, if there is one")
            path.unlink()  # else it would be kept in place of one that can be read
            continue
        trainer.restore(*parts)
        trainer.micro_batch, trainer.scale, trainer.good_steps = (
            state.micro_batch,
            state.scale,
            state.good_steps,
        )
        return state.step
    return 0


def _read(path: Path, trainer: Trainer) -> tuple[State, list[dict[str, np.ndarray]]]:
    with path.open("rb") as stream, np.load(stream) as stored:  # which leaves what is damaged open
        state = State(**json.loads(str(stored["state"])))
        parts = [
            {name: stored[f"{kind}/{name}"] for name in trainer.shapes} for kind in ("trained", "momentum")
        ]
    for name, shape in trainer.shapes.items():
        if any(part[name].shape != shape for part in parts):
            raise ValueError(f"{name} is not of the shape {shape}")
    return state, parts


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if _NAME.fullmatch(path.name))


def replace_file(path: Path, write) -> None:
    """Calls `write` with a binary stream; `path` then has all of it, or what it had before."""
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    try:
        with open(partial, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk it would keep that full
        raise


def _remove_partials(folder: Path) -> None:
    """Removes the checkpoints that a killed process was writing."""
    for path in folder.glob(f"step-*{_PARTIAL}"):
        path.unlink()
