"""Small labelled pictures that a network learns to tell apart in a few steps."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests import helpers

NAMES = ("blue", "green", "red")  # in the order of their classes
TINY = (
    "--model=untrained/tiny",
    "--resize=36",
    "--crop=32",
    "--batch_size=8",
    "--micro_batch=8",
    "--base_rate=0.03",
    "--decode_processes=1",
)


def png(label: int, index: int) -> bytes:
    """Noise with more of one colour."""
    draw = np.random.RandomState(100 * label + index)
    pixels = draw.randint(0, 120, (40, 48, 3)).astype(np.uint8)
    pixels[..., 2 - label] += 100
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def folders(folder: Path, each: int = 8) -> Path:
    """One folder per class."""
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            (folder / name / f"{index}.png").write_bytes(png(label, index))
    return folder


def finetune(*flags: str, output: Path, expect: int = 0) -> None:
    """Runs the command in this process."""
    from pipeline.finetune.__main__ import main

    code = main([f"--output={output}", *flags])
    assert code == expect, f"exit code {code}, expected {expect}"


def records(path: Path, each: int = 4, **more: object) -> Path:
    """A TFRecord file with the labels as numbers and as texts."""
    examples = [
        helpers.example(
            {"image/encoded": png(label, index), "image/class/label": label, "text": NAMES[label], **more}
        )
        for index in range(each)
        for label in range(3)
    ]
    return helpers.write_tfrecord(path, examples)
