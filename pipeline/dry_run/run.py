"""`--dry_run`: samples a few images of some shards and estimates the complete job. Writes no output.

Measures the job's own functions one after the other: reading or fetching, decoding, the loaded model on full batches,
writing and committing a shard in a temporary folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.console import counted, show
from pipeline.dry_run.estimate import Estimate, Job, estimate
from pipeline.dry_run.measure import measure
from pipeline.dry_run.sample import Image, Sampler
from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.progress import duration
from transforms import cpus
from transforms.elements import Shard

_SHARDS = 8


@dataclass(frozen=True)
class Survey:
    """The sampled images and the estimate; `estimate` is None if no image could be decoded."""

    images: tuple[Image, ...]
    shards: int  # that were sampled
    estimate: Estimate | None = None
    record_bytes: int = 0  # per feature record


def run(config: JobConfig, plan: Plan) -> list[str]:
    """Lines on the sampled images of the plan's shards, and on the estimated job."""
    if not plan.shards:
        return ["dry run: the outputs in --skip_done hold all of the input"]
    return lines(config, plan, survey(config, plan))


def survey(config: JobConfig, plan: Plan) -> Survey:
    """Samples a few images of at most eight of the shards to do, and measures with them."""
    images: list[Image] = []
    samples = []
    with _reachable(plan) as shards, contextlib.closing(Sampler(config, plan.read)) as sampler:
        parts = min(_SHARDS, len(shards))
        for part in range(parts):
            show(f"sampling shard {part + 1} of {parts}")
            neighbors = shards[part * len(shards) // parts : (part + 1) * len(shards) // parts]
            shard_images, sample = sampler.sample(
                neighbors[len(neighbors) // 2], sum(shard.units for shard in neighbors)
            )
            images += shard_images
            samples += [sample] if shard_images else []
    decoded = [image.decoded for image in images if image.decoded]
    if not decoded:
        show("")
        return Survey(tuple(images), parts)
    show("loading and measuring the model")
    measured, record_bytes = measure(config, decoded)
    show("")
    job = Job(sum(shard.units for shard in shards), len(shards), config.model.batch_size, cpus.available())
    return Survey(tuple(images), parts, estimate(job, samples, measured), record_bytes)


@contextlib.contextmanager
def _reachable(plan: Plan) -> Iterator[list[Shard]]:
    """The shards; those of image files refer to a list that is not written yet, so they get a temporary one."""
    shards = list(plan.todo or plan.shards)
    if plan.listing is None:
        yield shards
        return
    with tempfile.NamedTemporaryFile(suffix=".txt") as stream:
        stream.write(plan.listing)
        stream.flush()
        moved = [dataclasses.replace(shard.source, uri=stream.name) for shard in shards]  # type: ignore[type-var]
        yield [dataclasses.replace(shard, source=source) for shard, source in zip(shards, moved, strict=True)]


def _done(plan: Plan) -> list[str]:
    """What earlier runs have done of the job."""
    done = len(plan.state.done) + len(plan.state.retried)
    if not done:
        return []
    of = counted(len(plan.shards), "shard")
    images = counted(sum(receipt.inputs for receipt in plan.state.done), "image")
    if not plan.todo:
        return [
            f"done      all of {of}, with {images}: there is nothing to do; the estimate is of doing them again"
        ]
    return [f"done      {done} of {of}, with {images}: the estimate is of the others"]


def lines(config: JobConfig, plan: Plan, survey: Survey) -> list[str]:
    """The report on a survey, one line per subject."""
    done = _done(plan)
    failed = Counter(image.failure for image in survey.images if image.failure)
    codes = ", ".join(f"{code}: {n}" for code, n in failed.items())
    count, job = len(survey.images), survey.estimate
    if job is None:
        nothing = f"none of {counted(count, 'image')} in {counted(survey.shards, 'shard')} could be decoded"
        return [f"dry run: {nothing} ({codes or 'no images'})", *done]
    formats = Counter(image.format for image in survey.images if image.decoded)
    sizes = sorted(image.size_bytes for image in survey.images if image.decoded)
    areas = sorted((i.width * i.height, i.width, i.height) for image in survey.images if (i := image.decoded))
    (_, width, height), (_, widest, highest) = areas[len(areas) // 2], areas[-1]
    rates = [f"{name} {job.images / max(stage.wall, 1e-9):.1f}" for name, stage in job.stages.items()]
    features_bytes = job.images * len(sizes) / count * survey.record_bytes
    known = [shard.source.inputs for shard in plan.todo or plan.shards]
    images = f"about {round(job.images):,} images"
    if None not in known:
        images = counted(sum(filter(None, known)), "image")
    out = [
        f"dry run: {count} of {images}, in {survey.shards} of {counted(len(plan.todo or plan.shards), 'shard')}",
        *done,
        f"formats   {', '.join(f'{name} {n}' for name, n in formats.most_common())}",
        f"sizes     {width}x{height} and {sizes[len(sizes) // 2]} bytes (median), "
        f"up to {widest}x{highest} and {sizes[-1]} bytes",
        f"failures  {sum(failed.values())} of {count}{f' ({codes})' if codes else ''}",
        f"rates     {', '.join(rates)} images/s, each stage by itself",
        f"time      {duration(job.seconds)} on one worker like this machine if the stages overlap "
        f"(range: {duration(job.low)} to {duration(job.high)}), without loading the model",
        f"disk      {features_bytes / 2**20:.0f} MiB",
    ]
    if config.price_per_hour:
        cost, low, high = (s / 3600 * config.price_per_hour for s in (job.seconds, job.low, job.high))
        out.append(f"cost      {cost:.2f} (range: {low:.2f} to {high:.2f})")
    return out
