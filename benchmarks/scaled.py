"""What --scaled_decoding changes, in pixels and in vectors: python -m benchmarks.scaled [--model=bit/m-r101x3]

The sample photographs that are large enough, and all of them enlarged to 12 megapixels, each as a JPEG, decoded at full
size and scaled. For comparison, the difference that another way of resizing makes: Pillow's, which averages as scaled
decoding does. Vectors of untrained weights say how far apart the network carries two inputs, not what that means.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from benchmarks import figures, machine
from bit.command import exit_with
from pipeline import options
from transforms import infer
from transforms.imaging import preprocess

SIDE = 224
PHOTOS = Path(__file__).resolve().parents[1] / "samples" / "photos"


def jpegs() -> dict[str, bytes]:
    """JPEGs of each photograph that scaled decoding changes, by name."""
    files = {}
    for path in sorted(PHOTOS.glob("*.*")):
        if path.suffix == ".md":
            continue
        picture = Image.open(path).convert("RGB")
        if min(picture.size) >= 2 * SIDE:
            files[f"{path.stem}, {picture.width}x{picture.height}"] = as_jpeg(picture)
        large = picture.resize((4000, 4000 * picture.height // picture.width), Image.Resampling.BICUBIC)
        files[f"{path.stem}, enlarged to {large.width}x{large.height}"] = as_jpeg(large)
    return files


def as_jpeg(picture: Image.Image) -> bytes:
    """As a JPEG of quality 90."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def ways(data: bytes) -> np.ndarray:
    """float32 (3, side, side, 3): decoded at full size, scaled, and by Pillow."""
    out = np.empty((3, SIDE, SIDE, 3), np.float32)
    preprocess.decode(data, preprocess.Preprocessing(image_size=SIDE), out[0])
    preprocess.decode(data, preprocess.Preprocessing(image_size=SIDE, scaled_decoding=True), out[1])
    out[2] = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return out


def distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(relative L2, 1 - cosine)."""
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a)), 1 - cosine


def main() -> None:
    """Prints the table of photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="untrained/r101x3")
    flags = parser.parse_args()
    argv = [
        f"--model={flags.model}",
        "--input=unused",
        "--output=unused",
        "--batch_size=3",
        f"--image_size={SIDE}",
    ]
    config, _ = options.parse(argv)
    model = infer.BitModelHandler(config.model).load_model().ready()
    print(machine.describe())
    print(
        f"{flags.model} at {SIDE}; of the pixels the mean difference of 255, of the vectors relative L2, 1 - cosine\n"
    )
    print(
        "| JPEG | pixels, scaled | vector, scaled | pixels, Pillow | vector, Pillow |\n|---|---|---|---|---|"
    )
    differences: list[float] = []
    for name, data in jpegs().items():
        pixels = ways(data)
        exact, *others = model(pixels)["embedding"]
        cells = []
        for number, vector in enumerate(others, 1):
            relative, angle = distance(exact, vector)
            difference = float(np.abs(pixels[number] - pixels[0]).mean())
            cells += [f"{difference:.1f}", f"{relative:.1e}, {angle:.1e}"]
            differences += [difference] if number == 1 else []
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    figures.report(pixels=statistics.median(differences))


if __name__ == "__main__":
    exit_with(main)
