"""`--dry_run`: a look at a few images of some shards, and what the whole job would take. Writes no output."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.options import JobConfig
from pipeline.plan import Plan, units
from pipeline.progress import duration
from transforms import decode, read, records, tfrecord
from transforms.elements import Decoded, Encoded, Failure, RecordFile, Shard, UriSlice
from transforms.fetch import Fetcher
from transforms.imaging.formats import format_of
from transforms.infer import BitModelHandler

_SHARDS, _IMAGES_PER_SHARD, _MODEL_CALLS = 8, 16, 3
_RESAMPLES = 1000  # of the bootstrap; seeded, so the same sample gives the same interval


@dataclass(frozen=True)
class Sample:
    """What was measured on one image."""

    unit: float  # of input: bytes of its record, or 1 row
    input_seconds: float
    decode_seconds: float
    outcome: str  # '' for a decoded image, else the failure's code
    format: str = ""
    size_bytes: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Device:
    """What was measured on the model and the writer, for one image."""

    model_seconds: tuple[float, ...]
    write_seconds: float
    record_bytes: int


def run(config: JobConfig, plan: Plan) -> list[str]:
    """Samples the plan's shards and returns lines that tell what was found and what the job would take."""
    shards = _reachable(plan)
    step = max(1, len(shards) // _SHARDS)
    samples: list[Sample] = []
    pixels = np.zeros(
        (config.model.batch_size, config.model.image_size, config.model.image_size, 3), np.float32
    )
    fetcher = Fetcher(config.read.fetch)
    with ThreadPoolExecutor(config.read.fetch.concurrency) as pool, contextlib.closing(fetcher):
        for shard in shards[::step][:_SHARDS]:
            samples += _look_at(shard, config, fetcher, pool, pixels)
    if plan.listing is not None:
        os.unlink(shards[0].source.uri)
    return _tell(config, plan, samples, min(_SHARDS, len(shards)), _device(config, pixels))


def _reachable(plan: Plan) -> list[Shard]:
    """The shards; those of image files refer to a list that is not written yet, and get a temporary one."""
    if plan.listing is None:
        return list(plan.todo or plan.shards)
    with tempfile.NamedTemporaryFile(suffix=".txt", delete=False) as stream:
        stream.write(plan.listing)
    shards = plan.todo or plan.shards
    return [dataclasses.replace(s, source=dataclasses.replace(s.source, uri=stream.name)) for s in shards]


def _look_at(
    shard: Shard, config: JobConfig, fetcher: Fetcher, pool: ThreadPoolExecutor, pixels: np.ndarray
) -> Iterator[Sample]:
    began = time.perf_counter()
    if isinstance(shard.source, RecordFile):
        items = list(itertools.islice(read.record_items(shard, shard.source, config.read), _IMAGES_PER_SHARD))
    else:
        few = dataclasses.replace(
            config.read,
            batch_size=1,
            fetch=dataclasses.replace(config.read.fetch, concurrency=_IMAGES_PER_SHARD // 2),
        )
        found = read.fetched_items(shard.source, few, fetcher.fetch, pool)
        items = list(itertools.islice(found, _IMAGES_PER_SHARD))
    seconds = (time.perf_counter() - began) / max(1, len(items))
    for item in items:
        if isinstance(item, Failure):
            yield Sample(1.0, seconds, 0.0, item.code)
            continue
        unit = 1.0 if isinstance(shard.source, UriSlice) else float(len(item.data) + len(item.passed) + 64)
        yield _decoded(item, unit, seconds, config, pixels)


def _decoded(item: Encoded, unit: float, seconds: float, config: JobConfig, pixels: np.ndarray) -> Sample:
    began = time.perf_counter()
    found = decode.decode_item(item, 0, config.preprocessing, pixels)
    taken = time.perf_counter() - began
    if isinstance(found, Failure):
        return Sample(unit, seconds, taken, found.code)
    return Sample(unit, seconds, taken, "", format_of(item.data), len(item.data), found.width, found.height)


def _device(config: JobConfig, pixels: np.ndarray) -> Device:
    """The loaded model on full batches, and the encoding of its outputs."""
    model = BitModelHandler(config.model).load_model()
    model(pixels)
    calls = []
    for _ in range(_MODEL_CALLS):
        began = time.perf_counter()
        outputs = model(pixels)
        calls.append((time.perf_counter() - began) / len(pixels))
    item = Decoded(b"k" * 64, 0, 0, 500, 375, "0" * 64)
    began = time.perf_counter()
    framed = [
        tfrecord.frame(records.encode(item, {n: v[row] for n, v in outputs.items()}))
        for row in range(len(pixels))
    ]
    return Device(tuple(calls), (time.perf_counter() - began) / len(pixels), len(framed[0]))


def image_seconds(input_s: float, decode_s: float, model_s: float, write_s: float, threads: int) -> float:
    """What the job needs for an image: each stage runs beside the others, decoding on `threads` threads."""
    return max(input_s, model_s, write_s, decode_s / threads)


def _tell(config: JobConfig, plan: Plan, samples: list[Sample], looked: int, device: Device) -> list[str]:
    good = [sample for sample in samples if not sample.outcome]
    if not good:
        codes = ", ".join(f"{code}: {n}" for code, n in Counter(s.outcome for s in samples).items())
        return [
            f"dry run: none of {len(samples)} images in {looked} shards could be decoded ({codes or 'no images'})"
        ]
    threads = config.decode.threads_here
    random = np.random.default_rng(0)
    table = np.array([(s.unit, s.input_seconds, s.decode_seconds) for s in samples])
    total = sum(map(units, plan.todo or plan.shards))
    drawn = random.integers(0, len(table), (_RESAMPLES, len(table)))
    unit, input_s, decode_s = np.moveaxis(table[drawn].mean(1), -1, 0)
    model_s = random.choice(device.model_seconds, (_RESAMPLES, len(device.model_seconds))).mean(1)
    images = total / unit
    seconds = [
        n * image_seconds(i, d, m, device.write_seconds, threads)
        for n, i, d, m in zip(images, input_s, decode_s, model_s, strict=True)
    ]
    low, middle, high = np.percentile(seconds, (2.5, 50, 97.5))
    sizes = sorted(sample.size_bytes for sample in good)
    pixels = sorted((sample.width * sample.height, sample.width, sample.height) for sample in good)
    failed = Counter(sample.outcome for sample in samples if sample.outcome)
    codes = f" ({', '.join(f'{code}: {n}' for code, n in failed.items())})" if failed else ""
    formats = Counter(sample.format for sample in good)
    share = len(good) / len(samples)
    lines = [
        f"dry run: {len(samples)} of about {round(np.median(images))} images, in {looked} of {len(plan.shards)} shards",
        f"formats   {', '.join(f'{name} {n}' for name, n in formats.most_common())}",
        f"sizes     {pixels[len(pixels) // 2][1]}x{pixels[len(pixels) // 2][2]} and {sizes[len(sizes) // 2]} bytes "
        f"in the median, up to {pixels[-1][1]}x{pixels[-1][2]} and {sizes[-1]} bytes",
        f"failures  {sum(failed.values())} of {len(samples)}{codes}",
        f"rates     input {_rate(table[:, 1])}, decode {_rate(table[:, 2] / threads)} on {threads} threads, "
        f"model {_rate(np.array(device.model_seconds))}, write {_rate(np.array([device.write_seconds]))}",
        f"time      {duration(middle)} on one worker like this (95 %: {duration(low)} to {duration(high)}), loading aside",
        f"disk      {np.median(images) * share * device.record_bytes / 2**20:.0f} MiB",
    ]
    if config.price_per_hour:
        price = config.price_per_hour / 3600
        lines.append(f"cost      {middle * price:.2f} (95 %: {low * price:.2f} to {high * price:.2f})")
    return lines


def _rate(seconds: np.ndarray) -> str:
    mean = float(seconds.mean())
    return f"{1 / mean:.1f} images/s" if mean else "-"
