"""How fast image files become model input, beside other ways to do it: `python -m benchmarks.decode`.

All contenders decode the same generated images to the same square, in turns, in one process. Each figure is the median
over the rounds: of CPU time for one thread (so that other work on the machine does not count), of wall time for several.
`bare libjpeg-turbo` does not resize: it is the limit of any exact JPEG reader. Differences are from TensorFlow's
accurate DCT and tf.image.resize; Pillow's come from its antialiasing, OpenCV's from uint8. --peers adds the readers of
other tools, each in its own environment, which is installed if necessary; see peers.py.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks import environments, figures, inputs, limit, machine
from bit.command import exit_with
from bit.tensorflow import tf
from transforms.imaging.preprocess import Preprocessing, decode

SIDE = 224
Reader = Callable[[bytes, np.ndarray], None]


def as_file(pixels: np.ndarray, image_format: str, **options) -> bytes:
    """uint8 (height, width, 3) as a file, written by Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def ours(data: bytes, out: np.ndarray) -> None:
    """The job's decoding, into float32 (SIDE, SIDE, 3), as the other readers."""
    decode(data, Preprocessing(image_size=SIDE), out)


def ours_scaled(data: bytes, out: np.ndarray) -> None:
    """The same with --scaled_decoding."""
    decode(data, Preprocessing(image_size=SIDE, scaled_decoding=True), out)


def bare(data: bytes, out: np.ndarray) -> None:
    """libjpeg-turbo alone; `out` is not written."""
    limit.bare(data)


def with_pillow(data: bytes, out: np.ndarray) -> None:
    """Pillow's decoding and its antialiased resizing."""
    out[:] = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def with_opencv(data: bytes, out: np.ndarray) -> None:
    """OpenCV's decoding and its resizing of uint8."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    out[:] = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def with_cv2_resize(data: bytes, out: np.ndarray) -> None:
    """Our JPEG decoder and OpenCV's resizing of float32."""
    rgb = simplejpeg.decode_jpeg(data)
    cv2.resize(rgb.astype(np.float32), (SIDE, SIDE), dst=out, interpolation=cv2.INTER_LINEAR)


def tf_picture(data: tf.Tensor) -> tf.Tensor:
    """TensorFlow's decoding and resizing, for tf.data."""
    pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
    pixels.set_shape((None, None, 3))
    return tf.image.resize(pixels, (SIDE, SIDE), "bilinear", antialias=False)


def reference(data: bytes) -> np.ndarray:
    """What the readers are compared with: TensorFlow, with the accurate DCT for a JPEG."""
    if data[:2] == b"\xff\xd8":
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    else:
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
    return tf.image.resize(pixels, (SIDE, SIDE), "bilinear", antialias=False).numpy()


def run_threads(reader: Reader, files: Sequence[bytes], threads: int) -> None:
    """Reads all files once on this many threads."""

    def part(start: int) -> None:
        out = np.empty((SIDE, SIDE, 3), np.float32)
        for data in files[start::threads]:
            reader(data, out)

    if threads == 1:
        part(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))


def tf_dataset(files: Sequence[bytes], threads: int) -> tf.data.Dataset:
    """tf.data over the files on this many threads."""
    dataset = tf.data.Dataset.from_tensor_slices(list(files)).map(tf_picture, num_parallel_calls=threads)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def run_tf(dataset: tf.data.Dataset) -> None:
    """Reads all of a dataset once."""
    for _ in dataset:
        pass


def tasks(readers: dict[str, Reader], files: Sequence[bytes], threads: int) -> dict[str, Callable[[], None]]:
    """Each contender by name, to read all files once on this many threads."""
    dataset = tf_dataset(files, threads)
    return {
        **{name: functools.partial(run_threads, reader, files, threads) for name, reader in readers.items()},
        "tf.data": lambda: run_tf(dataset),
    }


PEERS = ("img2dataset", "PyTorch DataLoader, Pillow", "clip-retrieval")


def peer_commands(install: bool) -> dict[str, list[str]]:
    """The command of each installed peer, without its folder and number of processes."""
    script = str(Path(__file__).with_name("peers.py"))
    pythons = {
        name: environments.python_of(name, install) for name in ("img2dataset", "torch", "clip-retrieval")
    }
    commands = {}
    if python := pythons["img2dataset"]:
        commands["img2dataset"] = [python, script, "img2dataset"]
    if python := pythons["torch"]:
        commands["PyTorch DataLoader, Pillow"] = [python, script, "loader"]
        if other_python := pythons["clip-retrieval"]:
            packages = Path(other_python).parents[1] / "lib"
            (reader,) = packages.glob("python*/site-packages/clip_retrieval/clip_inference/reader.py")
            commands["clip-retrieval"] = [python, script, "clip-retrieval", str(reader)]
    return commands


@contextmanager
def peer(command: list[str], folder: str, processes: int) -> Iterator[Callable[[], tuple[float, float]]]:
    """A running peer: each call reads all files and returns the seconds, (wall, CPU)."""
    line = [*command[:3], folder, str(processes), *command[3:]]
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout
    if stdout.readline() != "ready\n":
        raise RuntimeError(f"{' '.join(line)} ended with {process.wait()}")

    def run() -> tuple[float, float]:
        stdin.write("go\n")
        stdin.flush()
        wall, cpu = map(float, stdout.readline().split())
        return wall, cpu

    try:
        yield run
    finally:
        stdin.close()
        process.wait()


def peers_rates(files: Sequence[bytes], suffix: str, rounds: int, cores: int) -> dict[str, tuple[str, str]]:
    """Images per second of each peer, by CPU time on one thread and by wall time on all cores, or why there is no figure."""
    rates: dict[str, tuple[str, str]] = dict.fromkeys(PEERS, ("not installed", ""))
    count = 384 if len(files[0]) < 1_000_000 else 8  # many, as some start their processes again in each round
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for index in range(count):
            Path(folder, f"{index}.{suffix}").write_bytes(files[index % len(files)])
        timings: dict[str, list[tuple[float, float]]] = {}
        running = {}
        for name, command in peer_commands(install=False).items():
            try:
                running[name] = [stack.enter_context(peer(command, folder, many)) for many in (0, cores)]
                timings[name] = []
            except RuntimeError as error:
                rates[name] = (f"does not run: {error}", "")
        for _ in range(rounds):
            for name, (alone, together) in running.items():
                timings[name].append((alone()[1], together()[0]))
        for name, seconds in timings.items():
            one_thread, all_cores = (count / statistics.median(each) for each in zip(*seconds, strict=True))
            rates[name] = (f"{one_thread:.1f}", f"{all_cores:.1f}")
    return rates


def measure(
    tasks: dict[str, Callable[[], None]], images: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Images per second of each task, the median over rounds in which the tasks take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            start = clock()
            task()
            seconds[name].append(clock() - start)
    return {name: images / statistics.median(times) for name, times in seconds.items()}


def difference(reader: Reader, files: Sequence[bytes]) -> tuple[float, float]:
    """(largest, mean) absolute difference from the reference, in levels of 255."""
    largest, means = 0.0, []
    for data in files[:4]:
        out = np.empty((SIDE, SIDE, 3), np.float32)
        reader(data, out)
        distance = np.abs(out - reference(data))
        largest = max(largest, float(distance.max()))
        means.append(float(distance.mean()))
    return largest, statistics.mean(means)


def kinds(quick: bool) -> dict[str, list[bytes]]:
    """The files of each row of tables, by title."""
    sizes = ((500, 375), (375, 500), (500, 333), (500, 400))
    small = [inputs.picture(seed, *sizes[seed % 4]) for seed in range(8 if quick else 48)]
    large = [inputs.picture(seed, 4000, 3000) for seed in range(2 if quick else 4)]
    return {
        "JPEG, ImageNet's size": [as_file(pixels, "JPEG", quality=90) for pixels in small],
        "JPEG, 12 megapixels": [as_file(pixels, "JPEG", quality=75) for pixels in large],
        "PNG": [as_file(pixels, "PNG") for pixels in small[:16]],
        "WebP": [as_file(pixels, "WEBP", quality=85) for pixels in small[:16]],
    }


def main() -> None:
    """Prints a table per kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="few images, to check that it runs")
    parser.add_argument("--peers", action="store_true", help="also other tools; installs them, about 6 GB")
    args = parser.parse_args()
    if args.peers:
        peer_commands(install=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cv2.setNumThreads(1)
    print(machine.describe())
    print(", ".join(f"{name} {version(name)}" for name in ("simplejpeg", "opencv-python-headless", "pillow")))
    for kind, files in kinds(args.quick).items():
        print(
            f"\n{kind}: {len(files)} files of {sum(map(len, files)) / len(files) / 1000:.0f} kB on average\n"
        )
        print(f"| images per second | one thread | {cores} threads | largest, mean difference of 255 |")
        print("|---|---|---|---|")
        readers: dict[str, Reader] = {"ours": ours, "Pillow": with_pillow, "OpenCV": with_opencv}
        if kind.startswith("JPEG"):
            readers = {"bare libjpeg-turbo": bare, **readers}
            readers |= {
                "simplejpeg, cv2.resize of float32": with_cv2_resize,
                "ours, scaled_decoding": ours_scaled,
            }
        alone = measure(tasks(readers, files, 1), len(files), args.rounds, time.process_time)
        side_by_side = measure(tasks(readers, files, cores), len(files), args.rounds, time.perf_counter)
        figures.report(**{f"{kind}: {name}": rate for name, rate in alone.items()})
        for name, rate in alone.items():
            far = "{:.5f}, {:.5f}".format(*difference(readers[name], files)) if name in readers else ""
            far = "" if name == "bare libjpeg-turbo" else far
            print(f"| {name} | {rate:.1f} | {side_by_side[name]:.1f} | {far} |", flush=True)
        if args.peers:
            suffix = {"J": "jpg", "P": "png", "W": "webp"}[kind[0]]
            for name, (one_thread, all_cores) in peers_rates(files, suffix, args.rounds, cores).items():
                print(f"| {name} | {one_thread} | {all_cores} | |", flush=True)


if __name__ == "__main__":
    exit_with(main)
