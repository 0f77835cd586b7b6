"""What a billion images take and cost: python -m benchmarks.scale

The arithmetic is that of `--dry_run` (pipeline/dry_run/estimate.py), on figures of benchmarks/README.md; nothing is measured.
docs/scale.md has the tables and says where the figures are from.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bit.command import exit_with
from pipeline.dry_run import estimate
from pipeline.dry_run.estimate import Cost
from transforms.elements import Decoded
from transforms.records import features
from transforms.write import COMMITS

IMAGE_BYTES = 88_000  # a JPEG of 500 x 375, as in the benchmarks
BATCH = 128
DIMENSIONS = 6144  # of R101x3
HOURS_PER_MONTH = 730

# "The product there": R101x3 at 224 in bfloat16 through the job's own handler, and a core that decodes and feeds.
MEASURED_ON = "H200"
IMAGES_PER_SECOND = 2866.0
FED_PER_CORE = 319.0
# "Encoding and writing records", and a commit on a store, which is assumed: a dry run measures it.
READ_CPU_SECONDS, WRITE_SECONDS = 43e-6, 33.4e-6
COMMIT = Cost(wall=1.0 / COMMITS, cpu=4e-3)
# The table of a batch's kernels there, milliseconds: convolutions by arithmetic, norms and the rest by memory.
COMPUTED_MS, MOVED_MS = 25.2, 6.7 + 4.7 + 0.6

# Dollars. Cloud Storage's page "Pricing examples": Standard storage in a region, operations, and the first tier to the Internet.
STORED_GB_MONTH, CLASS_A, CLASS_B, EGRESS_GB = 0.020, 0.005 / 1000, 0.0004 / 1000, 0.12
REQUESTS_PER_SHARD = 10  # of each class, at most: claim, files, copies, receipt, listings; checks and reads


@dataclass(frozen=True)
class Device:
    """A GPU by NVIDIA's data sheet, in a machine of Compute Engine, with its price per hour in us-central1."""

    name: str
    tflops: float  # bfloat16, dense
    terabytes_per_second: float
    machine: str = ""
    cpus: int = 0
    on_demand: float | None = None  # None where it cannot be had, or is not known of the same time
    spot: float | None = None


H200 = Device("H200", 989, 4.8)
DEVICES = (
    Device("L4", 121, 0.300, "g2-standard-8", 8, 0.85, 0.51),
    Device("A100, 40 GB", 312, 1.555, "a2-highgpu-1g", 12, 3.67),
    Device("H100", 989, 3.35, "a3-highgpu-1g", 26, None, 6.62),
)


def rate(device: Device) -> float:
    """Images per second of the network on a device, from those on the H200: each kind of kernel by what bounds it."""
    slower = (
        COMPUTED_MS * H200.tflops / device.tflops
        + MOVED_MS * H200.terabytes_per_second / device.terabytes_per_second
    )
    return IMAGES_PER_SECOND * (COMPUTED_MS + MOVED_MS) / slower


def job(device: Device, images: float, images_per_shard: int) -> tuple[estimate.Job, dict[str, Cost]]:
    """The job on one machine, and its stages."""
    one = estimate.Job(images, math.ceil(images / images_per_shard), BATCH, device.cpus)
    decode = Cost(1 / (FED_PER_CORE * device.cpus), 1 / FED_PER_CORE)
    sample = estimate.ShardSample(1, 1, Cost(READ_CPU_SECONDS, READ_CPU_SECONDS), decode)
    call = Cost(BATCH / rate(device), 0.0)
    write = Cost(WRITE_SECONDS, WRITE_SECONDS)
    _, stages = estimate.stages_of(one, [sample], estimate.Measured(call, call, call, write, COMMIT))
    return one, stages


def computing(images: float, images_per_shard: int) -> Iterator[str]:
    """The table of GPUs."""
    yield "| GPU | machine | images/s of the network | hours of one | slowest stage | on demand | Spot | machines for a day |"
    yield "|---|---|---|---|---|---|---|---|"
    for device in DEVICES:
        one, stages = job(device, images, images_per_shard)
        hours = estimate.overlapping(one, stages) / 3600
        slowest = max(stages, key=lambda name: stages[name].wall)
        prices = (
            "-" if price is None else dollars(price * hours) for price in (device.on_demand, device.spot)
        )
        yield (
            f"| {device.name} | {device.machine} | {rate(device):.0f} | {hours:,.0f} | {slowest} | "
            f"{' | '.join(prices)} | {math.ceil(hours / 24)} |"
        )


def layout(images: float) -> Iterator[str]:
    """The table of shard sizes: what a kill costs, and how many of each."""
    yield "| images per shard | shards | feature file | seconds of an L4, A100, H100 | slowest stage there | requests |"
    yield "|---|---|---|---|---|---|"
    for size in (1024, 4096, 10_240, 40_960):
        shards = math.ceil(images / size)
        seconds = ", ".join(f"{size / rate(device):.1f}" for device in DEVICES)
        stages = [job(device, images, size)[1] for device in DEVICES]
        slowest = ", ".join(max(all_of, key=lambda name: all_of[name].wall) for all_of in stages)
        requests = shards * REQUESTS_PER_SHARD * (CLASS_A + CLASS_B)
        yield (
            f"| {size:,} | {shards:,} | {size * record_bytes() / 1e6:,.0f} MB | {seconds} | {slowest} | {dollars(requests)} |"
        )


def storage(images: float) -> Iterator[str]:
    """The table of bytes at rest and on the way."""
    yield "| | bytes per image | in total | per month | out to the Internet, at most |"
    yield "|---|---|---|---|---|"
    for name, size in (
        ("images", IMAGE_BYTES),
        ("features, as the job writes them (float32)", record_bytes()),
        ("vectors exported as float16", 2 * DIMENSIONS),
        ("vectors of 512 dimensions (PCA) as float16", 2 * 512),
    ):
        total = images * size / 1e9
        prices = f"{dollars(total * STORED_GB_MONTH)} | {dollars(total * EGRESS_GB)}"
        yield f"| {name} | {size:,.0f} | {total / 1000:,.1f} TB | {prices} |"


def record_bytes() -> int:
    """Bytes of a framed feature record with a key of usual length."""
    item = Decoded(b"train-00000-of-01024.tfrecord#1000", 0, 0, 500, 375, "0" * 64)
    return len(features.encode([item], {"embedding": np.zeros((1, DIMENSIONS), np.float32)}))


def dollars(value: float) -> str:
    """Three significant digits: such prices are not more exact."""
    digits = max(0, len(str(int(value))) - 3)
    return f"${round(value, -digits):,.0f}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=float, default=1e9)
    parser.add_argument("--images_per_shard", type=int, default=10_240)
    flags = parser.parse_args()
    for table in (
        computing(flags.images, flags.images_per_shard),
        layout(flags.images),
        storage(flags.images),
    ):
        print(*table, "", sep="\n")


if __name__ == "__main__":
    exit_with(main)
