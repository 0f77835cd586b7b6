"""Images for the benchmarks, generated from fixed seeds: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg

from transforms.records import examples, tfrecord


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """A photograph-like picture: smooth areas and fine grain, uint8 (height, width, 3)."""
    random = np.random.RandomState(seed)
    coarse = random.uniform(0, 255, (9, 9, 3))
    rows, columns = np.linspace(0, 7.999, height), np.linspace(0, 7.999, width)
    r, c = rows.astype(int), columns.astype(int)
    tr, tc = (rows - r)[:, None, None], (columns - c)[None, :, None]
    top = coarse[r][:, c] * (1 - tc) + coarse[r][:, c + 1] * tc
    bottom = coarse[r + 1][:, c] * (1 - tc) + coarse[r + 1][:, c + 1] * tc
    grain = random.normal(0, 14, (height, width, 1))
    return np.clip(top * (1 - tr) + bottom * tr + grain, 0, 255).astype(np.uint8)


def jpeg(seed: int, width: int = 500, height: int = 375, quality: int = 90) -> bytes:
    """The picture of `seed` as a JPEG; about 110 KB at the default size, as in ImageNet."""
    return simplejpeg.encode_jpeg(picture(seed, width, height), quality, "RGB", "420")


def write_shards(
    folder: Path, count: int, shards: int, width: int = 500, height: int = 375, distinct: int = 32
) -> tuple[str, list[bytes]]:
    """Writes `count` JPEGs, of which `distinct` differ, as TFRecord shards; returns a glob and the JPEGs in order."""
    folder.mkdir(parents=True)
    jpegs = [jpeg(seed, width, height) for seed in range(min(distinct, count))]
    encoded = [jpegs[i % len(jpegs)] for i in range(count)]
    for shard in range(shards):
        with open(folder / f"in-{shard:05d}-of-{shards:05d}.tfrecord", "wb") as out:
            for data in encoded[shard * count // shards : (shard + 1) * count // shards]:
                example = examples.Example()
                example.features.feature["image/encoded"].bytes_list.value.append(data)
                out.write(tfrecord.frame(example.SerializeToString()))
    return f"{folder}/in-*.tfrecord", encoded
