"""How busy the job keeps a device that takes a fixed time per image: python -m benchmarks.device

The network is replaced by one that sleeps, which uses neither the GIL nor a core, and returns vectors of 6144: what a GPU
leaves to the rest of the job. Without --image_ms the device takes the time at which it needs 80 % of what all cores can
decode. --image_ms=0 is the job without the model's cost. Each round measures, in turns, bare libjpeg-turbo decoding (no
resizing) and our decoding, with one thread per core, and the complete job.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process, Queue
from pathlib import Path

import numpy as np

from benchmarks import figures, inputs, limit, lock, machine
from bit.command import exit_with
from pipeline import bottleneck, console, options, plan, prepare, run, runners
from transforms import infer, metrics
from transforms.counters import Counts
from transforms.imaging import preprocess

_FEATURES = 6144


@dataclass
class Device:
    """A model that takes `image_seconds` per row of its batch, and records the start and end of each call."""

    batch_size: int
    image_seconds: float = 0.0
    identity: dict[str, str] = field(default_factory=lambda: {"route": "sleeping"})
    calls: list[tuple[float, float]] = field(default_factory=list)
    used: list[tuple[float, float]] = field(
        default_factory=list
    )  # CPU time, and that with the lock held, at each call

    def __post_init__(self):
        self._outputs = (
            np.random.RandomState(0).standard_normal((self.batch_size, _FEATURES)).astype(np.float32)
        )

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        if self.image_seconds:
            time.sleep(self.image_seconds * len(pixels))
        outputs = {"embedding": self._outputs}  # not a copy, which is the device's work
        self.calls.append((began, time.perf_counter()))
        self.used.append((time.process_time(), lock.held_seconds() or 0.0))
        return outputs

    def ready(self) -> Device:
        """As of a model that is loaded."""
        return self

    def give(self, pixels: np.ndarray) -> None:
        """As on a CPU, which takes no batches ahead."""

    @property
    def busy(self) -> float:
        """The share of the time from the start of the first call to the end of the last that was spent in calls."""
        return sum(end - began for began, end in self.calls) / (self.calls[-1][1] - self.calls[0][0])


@dataclass(frozen=True)
class Run:
    """The figures of one complete job."""

    seconds: float
    cpu_seconds: float  # of this process
    all_cpu_seconds: float  # also of the processes that it started
    steady_cpu_seconds: float  # of this process, from the first batch to the last, scaled to all images
    steady_held_seconds: float  # of that, with the interpreter's lock held; 0 if it is not measured
    busy: float
    steady_seconds: float  # from the first batch to the last, scaled to all images
    stages: dict[str, float]  # seconds by name, of the worker's thread


def complete_job(argv: Sequence[str], output: Path, device: Device) -> Run:
    """The job from building the graph to the manifest."""
    config, beam_options = options.parse([*argv, f"--output={output}"])
    job_plan = plan.make(config, "benchmark")
    prepare.prepare(job_plan)
    console.configure_logging(runners.LOCAL)
    device.calls.clear()
    device.used.clear()
    began, cpu, others = time.perf_counter(), time.process_time(), _others()
    result = run.run(config, job_plan, beam_options, runners.LOCAL)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    calls = device.calls
    scale = len(calls) / max(1, len(calls) - 1)
    steady = (calls[-1][1] - calls[0][1]) * scale
    own, held = ((last - first) * scale for first, last in zip(device.used[0], device.used[-1], strict=True))
    return Run(
        seconds,
        cpu,
        cpu + _others() - others,
        own,
        held,
        device.busy,
        steady,
        bottleneck.stage_seconds(metrics.read(result) or Counts()),
    )


def _others() -> float:
    """CPU seconds of the processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def decoding(encoded: Sequence[bytes], threads: int, decode: Callable[[bytes], object]) -> float:
    """Wall-clock seconds of all threads together, each with its share of the images."""

    def share(first: int) -> None:
        for data in encoded[first::threads]:
            decode(data)

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(share, range(threads)))
        return time.perf_counter() - began


def _decode(data: bytes, preprocessing: preprocess.Preprocessing, scratch: Callable[[], np.ndarray]) -> None:
    preprocess.decode(data, preprocessing, scratch())


def main() -> None:
    """Prints each round, then the medians."""
    lock.start_again_measured("benchmarks.device")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--image_ms",
        type=float,
        help="milliseconds of the device per image; default: such that it needs 80 %% of what the cores decode",
    )
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--http", action="store_true", help="a list of http:// URIs instead of TFRecords")
    flags = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    device = Device(flags.batch_size)
    infer.BitModelHandler.load_model = lambda self: device  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as scratch, _input(Path(scratch), flags) as (input_flags, encoded):
        argv = ["--model=untrained/r101x3", f"--batch_size={flags.batch_size}", *input_flags]
        config, _ = options.parse([*argv, "--output=unused"])
        out = np.empty((config.preprocessing.image_size,) * 2 + (3,), np.float32)
        ours = functools.partial(
            _decode, preprocessing=config.preprocessing, scratch=lambda: np.empty_like(out)
        )
        sample = encoded[: max(64, len(encoded) // 4)]
        runs, rates = [], {"bare": [], "ours": []}
        for index in range(flags.rounds + 1):
            for name, decode in (("bare", limit.bare), ("ours", ours)):
                rates[name].append(len(sample) / decoding(sample, cores, decode))
            decoded_rate = statistics.median(rates["ours"][1:] or rates["ours"])
            device.image_seconds = (
                1 / (0.8 * decoded_rate) if flags.image_ms is None else flags.image_ms / 1000
            )
            runs.append(complete_job(argv, Path(scratch) / f"out-{index}", device))
            if index:
                _print_round(runs[-1], device, rates, len(encoded))
    _print_summary(
        flags, runs[1:], {name: values[1:] for name, values in rates.items()}, len(encoded), cores, device
    )


def _print_round(run: Run, device: Device, rates: dict[str, list[float]], count: int) -> None:
    stages = ", ".join(f"{name} {seconds / count * 1e6:.0f}" for name, seconds in run.stages.items())
    print(
        f"  bare {rates['bare'][-1]:.0f}/s, ours {rates['ours'][-1]:.0f}/s, job {count / run.seconds:.0f}/s, "
        f"device {device.image_seconds * 1e3:.2f} ms per image, busy {run.busy:.1%}; us per image in the worker: {stages}",
        flush=True,
    )


def _print_summary(
    flags: argparse.Namespace,
    runs: Sequence[Run],
    rates: dict[str, list[float]],
    count: int,
    cores: int,
    device: Device,
) -> None:
    median = statistics.median
    job = median(count / run.seconds for run in runs)
    bare, ours = median(rates["bare"]), median(rates["ours"])
    source = "http:// list" if flags.http else "TFRecord"
    print(machine.describe())
    print(
        f"{source}, {count} images in {flags.shards} shards, batch {flags.batch_size}, {flags.rounds} rounds, {cores} cores"
    )
    print(f"| bare libjpeg-turbo | {bare:.0f} images/s | {bare / cores:.0f} per core |")
    print(f"| our decoding | {ours:.0f} images/s | {ours / cores:.0f} per core | {ours / bare:.2f} of bare |")
    print(
        f"| the job | {job:.0f} images/s | {job / cores:.0f} per core | {job / bare:.2f} of bare, {job / ours:.2f} of ours |"
    )
    steady = median(count / run.steady_seconds for run in runs)
    figures.report(bare=bare, ours=ours, job=job, steady=steady, busy=median(run.busy for run in runs))
    ratios = f"{steady / bare:.2f} of bare, {steady / ours:.2f} of ours"
    print(f"| without its start and end | {steady:.0f} images/s | {steady / cores:.0f} per core | {ratios} |")
    all_cpu, own, held = (
        median(values) / count * 1e6
        for values in zip(
            *((run.all_cpu_seconds, run.steady_cpu_seconds, run.steady_held_seconds) for run in runs),
            strict=True,
        )
    )
    figures.report(all_cpu=all_cpu, own_cpu=own, held=held)
    print(f"| CPU time in all | {all_cpu:.0f} us per image |")
    print(f"| of the process with the model, without its start and end | {own:.0f} us per image |")
    if held:
        print(f"| of that, with the interpreter's lock held | {held:.1f} us per image |")
    if device.image_seconds:
        busy = sorted(run.busy for run in runs)
        print(f"| device busy | {median(busy):.1%} (from {busy[0]:.1%} to {busy[-1]:.1%}) |")


@contextmanager
def _input(scratch: Path, flags: argparse.Namespace):
    """The flags that name the input, and the images in it."""
    if not flags.http:
        pattern, encoded = inputs.write_shards(scratch / "in", flags.images, flags.shards)
        yield [f"--input={pattern}"], encoded
        return
    jpegs = [inputs.jpeg(seed) for seed in range(32)]
    (scratch / "www").mkdir()
    for index, data in enumerate(jpegs):
        (scratch / "www" / f"{index}.jpg").write_bytes(data)
    ports: Queue[int] = Queue()
    server = Process(target=_serve, args=(str(scratch / "www"), ports), daemon=True)
    server.start()
    try:
        address = f"http://127.0.0.1:{ports.get(timeout=60)}"
        lines = [f"{address}/{index % len(jpegs)}.jpg" for index in range(flags.images)]
        (scratch / "list.txt").write_text("\n".join(lines) + "\n")
        input_flags = [
            f"--input={scratch}/list.txt",
            f"--images_per_shard={-(-flags.images // flags.shards)}",
        ]
        yield (
            [*input_flags, "--allow_private_networks=127.0.0.0/8"],
            [jpegs[index % len(jpegs)] for index in range(flags.images)],
        )
    finally:
        server.terminate()
        server.join()


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def _serve(folder: str, ports: Queue) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    ports.put(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    exit_with(main)
