"""Vectors that are not finite: computed again in float32 where a reduced precision may be the cause. No TensorFlow here."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from transforms import counters
from transforms.model.loaded import Outputs


class Exact(Protocol):
    """The part of a loaded model that is needed here: `transforms.model.fitting.Fitted`."""

    def in_float32(self, pixels: np.ndarray) -> Outputs | None:
        """See `transforms.model.loaded.LoadedModel`."""


def checked(
    outputs: Outputs, pixels: Callable[[], np.ndarray], rows: Sequence[int], model: Exact
) -> tuple[Outputs, dict[int, tuple[str, str]]]:
    """The outputs with what overflowed replaced, and (code, message) for each of `rows` that float32 cannot compute either."""
    failed = _not_finite(outputs, rows)
    if not failed:
        return outputs, {}
    again = sorted(failed)
    try:
        exact = model.in_float32(pixels()[again])
    except (
        Exception
    ) as error:  # no room for a second network, for instance: the others are computed all the same
        reason = f", and float32 cannot be tried: {type(error).__name__}: {error}"[:500]
        return outputs, {row: _refusal(name, reason) for row, name in failed.items()}
    if exact is None:
        return outputs, {row: _refusal(name) for row, name in failed.items()}
    still = _not_finite(exact, range(len(again)))
    counters.PROCESS.add(overflowed=len(again) - len(still))
    if len(still) < len(again):
        _say_once()
    outputs = {name: values.copy() for name, values in outputs.items()}
    for name, values in exact.items():
        outputs[name][again] = values
    return outputs, {again[place]: _refusal(name) for place, name in still.items()}


def _not_finite(outputs: Outputs, rows: Sequence[int]) -> dict[int, str]:
    """The first output, by name, of each row that is not finite."""
    failed: dict[int, str] = {}
    for name, values in outputs.items():
        if values.dtype.kind == "f":
            finite = np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
            if not finite.all():
                failed |= {row: name for row in rows if not finite[row] and row not in failed}
    return failed


def _refusal(name: str, reason: str = "") -> tuple[str, str]:
    return "not_finite", f"output {name!r} is not finite{reason}"


@functools.cache
def _say_once() -> None:
    """Once per process: the count is in the metrics and the report."""
    logging.getLogger(__name__).warning(
        "an image's values exceed what this precision can hold: it was computed again in float32, as each further one will "
        "be, one at a time. If there are many (counted as 'overflowed'), use --precision=bfloat16"
    )
