"""Inputs, readers and runs that the tests share."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from transforms.records import examples, features, tfrecord

REPO = Path(__file__).resolve().parent.parent
SIDE = 32  # of the pictures that the tiny network sees
TINY = ("--model=untrained/tiny", f"--image_size={SIDE}")


def picture(seed: int, width: int = 48, height: int = 40) -> np.ndarray:
    """A smooth random RGB picture, uint8 (height, width, 3); another for each seed."""
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def encoded(seed: int, kind: str = "JPEG", **size: int) -> bytes:
    """The picture of `seed` as the bytes of an image file."""
    out = io.BytesIO()
    Image.fromarray(picture(seed, **size)).save(out, kind)
    return out.getvalue()


def example(features: Mapping[str, object]) -> bytes:
    """A serialized tf.Example: bytes, str, int, float or lists of them by feature name."""
    out = examples.Example()
    out.features.MergeFromString(examples.from_columns(features))
    return out.SerializeToString(deterministic=True)


def image_example(seed: int, **more: object) -> bytes:
    """The tf.Example of one good picture."""
    features = {"image/encoded": encoded(seed), "image/filename": f"{seed}.jpg", "image/class/label": seed}
    return example({**features, **more})


def write_tfrecord(path: Path, records: Sequence[bytes]) -> Path:
    """Writes a TFRecord file, gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(map(tfrecord.frame, records))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_shards(folder: Path, sizes: Sequence[int], suffix: str = "") -> str:
    """Writes one TFRecord file per size, of good pictures with running seeds; returns a glob that matches them."""
    seed = 0
    for index, size in enumerate(sizes):
        name = f"in-{index:05d}-of-{len(sizes):05d}.tfrecord{suffix}"
        write_tfrecord(folder / name, [image_example(seed + i) for i in range(size)])
        seed += size
    return f"{folder}/in-*.tfrecord{suffix}"


def read_features(path: Path | str) -> list[dict[str, object]]:
    """The records of a feature file: name -> float32 array, list of ints, or list of bytes."""
    with open(path, "rb") as stream:
        records = list(features.read(stream))
    damage = [record for record in records if isinstance(record, features.Damage)]
    assert not damage
    return [record.values() for record in records]


def read_all(output: Path) -> list[dict[str, object]]:
    """The records of all shards, in order."""
    return [record for path in sorted(output.glob("features-*")) for record in read_features(path)]


def read_ledger(output: Path) -> list[dict[str, object]]:
    """The lines of all ledgers, in order."""
    return [
        json.loads(line)
        for path in sorted(output.glob("failures-*"))
        for line in path.read_text().splitlines()
    ]


def assert_close(vector: np.ndarray, right: np.ndarray) -> None:
    """Off by at most what float32 may be off (docs/models.md): 2e-5 of the largest feature."""
    np.testing.assert_allclose(vector, right, rtol=0, atol=2e-5 * np.abs(right).max())


def manifest(output: Path) -> dict:
    return json.loads((output / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def job(*flags: str, output: Path, expect: int = 0) -> None:
    """Runs the job in this process with the tiny network; fails on another exit code than `expect`."""
    from pipeline.main import main

    code = main([*TINY, f"--output={output}", *flags])
    assert code == expect, f"exit code {code}, expected {expect}"


def job_process(*flags: str, expect: int | None = 0, **popen) -> subprocess.CompletedProcess:
    """Runs `python -m pipeline.main` as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.main", *flags],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={**os.environ, **popen.pop("env", {})},
        timeout=600,
        **popen,
    )
    if expect is not None:
        assert done.returncode == expect, f"exit code {done.returncode}\n{done.stderr}"
    return done


def without_roots_rights() -> list[str]:
    """A command's beginning that takes the right away to read everything."""
    if os.geteuid():
        return []
    assert shutil.which("setpriv"), "root must be able to drop its rights: install util-linux"
    return [
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        "--inh-caps=-dac_override,-dac_read_search",
    ]
