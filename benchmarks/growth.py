"""How costs grow: python -m benchmarks.growth engines|images|shards

engines: images per second of the job with the tiny network, with 1 and 2 workers on each engine, once it is running;
         and the other seconds of the run: start, loading, end.
images:  images per second of the job with the tiny network on the same images in shards of several sizes, without loading.
shards:  seconds and memory to plan, to describe the job to an engine, to reach the first commit, and to resume a finished output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apache_beam as beam

from benchmarks import figures, inputs, machine
from benchmarks.job import complete_job
from bit.command import exit_with
from pipeline import options, plan, weights
from pipeline import run as running
from transforms import infer, plan_file
from transforms.commit import receipts
from transforms.commit.layout import Layout

MODEL = ("--model=untrained/tiny", "--image_size=64")
LOCAL = "--direct_running_mode="
SHARDS = 40
FIRST_COMMIT_SECONDS = 1800.0


def run(*flags: str) -> dict:
    """Runs the job in its own process; returns its report, with `wall_seconds`, `cpu_seconds` and `peak_mib`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pipeline.main", *MODEL, *flags, f"--report_file={report}"]
        began = time.perf_counter()
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                errors.seek(0)
                raise RuntimeError(f"{' '.join(command)}:\n{errors.read().decode()}")
        spent = {
            "wall_seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_mib": usage.ru_maxrss / 1024,
        }
        return {**json.loads(report.read_text()), **spent}


def engines_here(chosen: list[str], cluster_folder: Path) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Name, number of workers and flags of each engine; missing ones are installed into the tests' cache."""
    from tests import engines

    if "direct" in chosen:
        yield "DirectRunner", 1, ()
        for mode in ("multi_threading", "multi_processing"):
            yield f"DirectRunner, {mode}", 2, ("--direct_num_workers=2", f"{LOCAL}{mode}")
    if "prism" in chosen:
        yield "Prism", 1, ("--runner=PrismRunner", f"--prism_location={engines.prism()}")
    if "spark" in chosen:
        for workers in (1, 2):
            yield (
                "Spark, embedded",
                workers,
                (*engines.embedded_spark(), f"--spark_master_url=local[{workers}]"),
            )
    if "flink" in chosen:
        with engines.flink_cluster(cluster_folder) as cluster:
            flags = [flag for flag in cluster.flags if not flag.startswith("--parallelism")]
            for workers in (1, 2):
                yield "Flink, a cluster", workers, (*flags, f"--parallelism={workers}")


def measure_engines(chosen: list[str], images: int, rounds: int) -> None:
    """Prints the table of `engines`."""
    print("| engine | workers | images per second | other seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        pattern, _ = inputs.write_shards(folder / "in", images, SHARDS)
        available = engines_here(chosen, folder / "cluster")
        stack.callback(available.close)  # type: ignore[attr-defined]
        for name, workers, flags in available:
            rates, rests = [], []
            for number in range(rounds):
                output = folder / f"out-{name}-{workers}-{number}"
                wall = run(*flags, f"--input={pattern}", f"--output={output}")["wall_seconds"]
                rates.append(rate(output, workers, images // SHARDS))
                rests.append(wall - images / rates[-1])
            shown = f"{statistics.median(rates):.0f} (from {min(rates):.0f} to {max(rates):.0f})"
            figures.report(**{f"{name}, {workers}": statistics.median(rates)})
            print(f"| {name} | {workers} | {shown} | {statistics.median(rests):.0f} |", flush=True)


def rate(output: Path, workers: int, shard_images: int) -> float:
    """Images per second from the first shard of each worker to the last of all, by the times of their receipts."""
    times = sorted(path.stat().st_mtime for path in (output / "receipts").glob("*.json"))
    return (len(times) - workers) * shard_images / (times[-1] - times[workers - 1])


def measure_images(images: int, sizes: list[int], rounds: int) -> None:
    """Prints the table of `images`."""
    config, _ = options.parse([*MODEL, "--input=unused", "--output=unused"])
    model = infer.BitModelHandler(config.model).load_model()
    infer.BitModelHandler.load_model = lambda self: model  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as scratch:
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for size in sizes:
            pattern, _ = inputs.write_shards(Path(scratch) / f"in-{size}", images, -(-images // size))
            complete_job([*MODEL, f"--input={pattern}"], Path(scratch) / f"warm-{size}")
        for number in range(rounds):
            for size in sizes:
                argv = [*MODEL, f"--input={scratch}/in-{size}/in-*.tfrecord"]
                seconds[size].append(complete_job(argv, Path(scratch) / f"out-{size}-{number}"))
    print("| images per shard | shards | images per second | milliseconds per shard |\n|---|---|---|---|")
    for size, times in seconds.items():
        rates = sorted(images / elapsed for elapsed in times)
        shards = -(-images // size)
        figures.report(**{str(size): statistics.median(rates)})
        shown = f"{statistics.median(rates):.0f} (from {rates[0]:.0f} to {rates[-1]:.0f})"
        print(f"| {size} | {shards} | {shown} | {statistics.median(times) / shards * 1e3:.1f} |", flush=True)


def measure_shards(count: int, done: int) -> None:
    """Prints the figures of `shards`: for this many to plan, and for this many done ones to resume."""
    # First, as a process counts the memory of the one that started it as its own.
    for shards in dict.fromkeys((done, count)):
        with tempfile.TemporaryDirectory() as scratch:
            listing = finished(Path(scratch), shards)
            report = run(f"--input={listing}", f"--output={scratch}/out", "--images_per_shard=1")
            assert report["shards_done_before"] == shards
            spent = cost(report["wall_seconds"], report["cpu_seconds"], report["peak_mib"])
            print(f"no-op resume over {shards} shards: {spent}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        listing = folder / "list.txt"
        (folder / "image.jpg").write_bytes(inputs.jpeg(0, 64, 48))
        listing.write_text(f"{folder}/image.jpg\n" * count)
        flags = [*MODEL, f"--input={listing}", f"--output={folder / 'out'}", "--images_per_shard=1"]
        config, beam_options = options.parse(flags)
        began, busy = time.perf_counter(), time.process_time()
        job_plan = plan.make(config, weights.identify(config.model, True))
        seconds = time.perf_counter() - began
        figures.report(plan_ms_per_shard=seconds / len(job_plan.shards) * 1e3)
        print(
            f"plan {len(job_plan.shards)} shards: {cost(seconds, time.process_time() - busy, peak_here())}",
            flush=True,
        )
        began, busy = time.perf_counter(), time.process_time()
        pipeline = beam.Pipeline(runner="FnApiRunner", options=beam_options)
        running.define(config, job_plan, pipeline)
        size = pipeline.to_runner_api().ByteSize()
        spent = cost(time.perf_counter() - began, time.process_time() - busy, peak_here())
        print(f"describe the job in {size / 1e6:.2f} MB: {spent}", flush=True)
        for file in (folder / "out" / ".tmp").glob("plan-*"):
            print(f"plan file: {file.stat().st_size / 1e6:.1f} MB", flush=True)
        del job_plan, pipeline
        print(f"start to first commit: {first_commit(flags, folder / 'out'):.1f} s", flush=True)


def cost(seconds: float, cpu_seconds: float, peak_mib: float) -> str:
    """Formats what a step took; CPU time tells also where other programs run."""
    return f"{seconds:.1f} s, {cpu_seconds:.1f} s of CPU time, peak {peak_mib:,.0f} MiB"


def peak_here() -> float:
    """Peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_commit(flags: list[str], output: Path) -> float:
    """Seconds from the start of a run to its first receipt; the run is then killed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.main", *flags], stderr=errors)
        try:
            while not list((output / "receipts").glob("*.json")):
                if process.poll() is not None or time.perf_counter() - began > FIRST_COMMIT_SECONDS:
                    errors.seek(0)
                    raise RuntimeError(f"no shard was committed:\n{errors.read().decode()}")
                time.sleep(0.05)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def finished(folder: Path, shards: int) -> Path:
    """Writes a list, and the finished output of a job over it: one real shard and its copies. Returns the list."""
    image = folder / "image.jpg"
    image.write_bytes(inputs.jpeg(0, 64, 48))
    listing = folder / "list.txt"
    listing.write_text(f"{image}\n")
    flags = ["--images_per_shard=1", f"--output={folder / 'one'}"]
    run(f"--input={listing}", *flags)
    (receipt,) = receipts.read_receipts(Layout(str(folder / "one")))
    data = (folder / "one" / receipt.files[0].name).read_bytes()
    listing.write_text(f"{image}\n" * shards)
    config, _ = options.parse(
        [*MODEL, f"--input={listing}", "--images_per_shard=1", f"--output={folder}/out"]
    )
    (folder / "out" / "receipts").mkdir(parents=True)
    layout = Layout(str(folder / "out"))
    for shard in plan.make(config, weights.identify(config.model, True)).shards:
        file = replace(receipt.files[0], name=Path(layout.features(shard.label)).name)
        (folder / "out" / file.name).write_bytes(data)
        copy = replace(
            receipt, shard=shard.label, name=shard.name, input=shard.source.identity(), files=(file,)
        )
        Path(layout.receipt(shard.label)).write_bytes(copy.to_json())
    return listing


def main() -> None:
    """Prints the figures of one kind of growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("engines", "images", "shards"))
    parser.add_argument("--engines", nargs="+", default=["direct", "prism", "spark", "flink"])
    parser.add_argument("--images", type=int, help="for engines and images (6400, 1600)")
    parser.add_argument("--images_per_shard", type=int, nargs="+", default=[1, 10, 100, 1600])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--done", type=int, default=10_000)
    parser.add_argument(
        "--in_graph", type=int, help="shards that the graph may hold, for a larger one than the job's"
    )
    flags = parser.parse_args()
    plan_file.IN_GRAPH = flags.in_graph or plan_file.IN_GRAPH
    print(machine.describe())
    if flags.what == "engines":
        measure_engines(flags.engines, flags.images or 6400, flags.rounds)
    elif flags.what == "images":
        measure_images(flags.images or 1600, flags.images_per_shard, flags.rounds)
    else:
        measure_shards(flags.shards, flags.done)


if __name__ == "__main__":
    exit_with(main)
