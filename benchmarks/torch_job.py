"""The same work as a torch script of thirty lines: `python benchmarks/torch_job.py 'shards/*.tfrecord' OUTPUT`

What someone with torch and timm would write: a DataLoader with one process per core, Pillow, timm's BiT network with its
weights standardized once, channels last, under `torch.compile`, and one `.npy` of features for each shard. It checks no checksum,
keeps no failures, and does not resume. Needs torch, timm, NumPy and Pillow only; the shards hold tf.Examples with
`image/encoded`. Weights are random: they do not change the speed.
"""

from __future__ import annotations

import argparse
import glob
import io
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

sys.path.insert(0, str(Path(__file__).resolve().parent))
from torch_model import folded

from bit.command import exit_with


def jpegs(path: str):
    """The JPEGs of a TFRecord file, found by their first bytes: there is one in each record."""
    with open(path, "rb") as stream:
        while header := stream.read(12):
            record = stream.read(struct.unpack("<Q", header[:8])[0] + 4)[:-4]
            yield record[record.index(b"\xff\xd8\xff") :]


class Shards(IterableDataset):
    """Batches of uint8 (n, 3, side, side) with the number of their shard; each process has shards of its own."""

    def __init__(self, paths: list[str], side: int, batch_size: int):
        self.paths, self.side, self.batch_size = paths, side, batch_size

    def __iter__(self):
        worker = get_worker_info()
        for shard in range(worker.id if worker else 0, len(self.paths), worker.num_workers if worker else 1):
            batch = []
            for data in jpegs(self.paths[shard]):
                image = (
                    Image.open(io.BytesIO(data)).convert("RGB").resize((self.side, self.side), Image.BILINEAR)
                )
                batch.append(np.asarray(image))
                if len(batch) == self.batch_size:
                    yield shard, torch.from_numpy(np.stack(batch).transpose(0, 3, 1, 2))
                    batch = []
            if batch:
                yield shard, torch.from_numpy(np.stack(batch).transpose(0, 3, 1, 2))


def main() -> None:
    """Prints images per second with and without the start, which is compiling and the first batches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="glob of TFRecord files")
    parser.add_argument("output", help="folder for the .npy files")
    parser.add_argument("--architecture", default="r101x3")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    flags = parser.parse_args()
    device, dtype = ("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, flags.dtype)
    began = time.perf_counter()
    model = folded(flags.architecture).to(device, dtype, memory_format=torch.channels_last)
    model = model if flags.eager else torch.compile(model)
    paths = sorted(glob.glob(flags.input))
    shards = Shards(paths, flags.side, flags.batch_size)
    loader = DataLoader(
        shards, None, num_workers=flags.processes, pin_memory=device == "cuda", prefetch_factor=2
    )
    Path(flags.output).mkdir(parents=True, exist_ok=True)
    features: dict[int, list[torch.Tensor]] = {}
    count, steady, first = 0, 0, 0.0
    with torch.inference_mode():
        for shard, images in loader:
            size = len(images)
            if size < flags.batch_size:  # one shape only: another would be compiled anew
                images = torch.cat([images, images.new_zeros(flags.batch_size - size, *images.shape[1:])])
            pixels = images.to(device, non_blocking=True).to(dtype, memory_format=torch.channels_last)
            features.setdefault(shard, []).append(model(pixels / 127.5 - 1)[:size].float())
            count += size
            if first:
                steady += size
            else:  # it has been compiled
                features[shard][0].cpu()
                first = time.perf_counter()
            if count % (32 * flags.batch_size) < size:
                rate = steady / (time.perf_counter() - first)
                print(f"{count} images, {rate:.1f}/s once it runs", flush=True)
    arrays = {shard: torch.cat(parts).cpu().numpy() for shard, parts in features.items()}
    ran = time.perf_counter()
    for shard, array in arrays.items():
        np.save(Path(flags.output, f"features-{shard:05d}.npy"), array)
    ended = time.perf_counter()
    print(
        f"torch {torch.__version__}, {device}, {flags.dtype}, {flags.processes} processes: {count} images in "
        f"{ended - began:.1f} s ({count / (ended - began):.1f}/s), {steady / (ran - first):.1f}/s once it runs"
    )


if __name__ == "__main__":
    exit_with(main)
