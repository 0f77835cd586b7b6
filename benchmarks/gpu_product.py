"""The product on a GPU, through TensorFlow, beside a torch script: `python -m benchmarks.gpu_product PART...`

rate: the handler as RunInference calls it, beside the same function with its input on the device already; the first batch;
      with --golden, the errors against the authors' vectors
twice: whether two processes that start afresh, and all places of a batch, give the same bytes, and at which rate, for sets
      of XLA's flags
kept: the first batch of two processes that share XLA's cache
job: the complete job, `pipeline.main`, on JPEGs in TFRecords
torch: `benchmarks/torch_job.py` on the same files

Each measurement is a process of its own, ends after --limit seconds, and prints at once. Without a GPU this says so, and
checks the parts with a small network on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bit.command import exit_with

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What may decide which programs XLA chooses; the first set is its default.
XLA_FLAGS = (
    ";--xla_gpu_exclude_nondeterministic_ops=true;--xla_gpu_deterministic_ops=true;--xla_gpu_autotune_level=0"
)
_NOTHING_KEPT = "--tf_xla_persistent_cache_directory="
_DEVICE_TIMES = ("device-msec", "device-copy-msec", "device-host-msec", "device-input-msec")
# Without a GPU: small enough for a CPU.
_SMALL = {
    "model": "untrained/tiny",
    "side": 64,
    "batch_size": 4,
    "seconds": 0.2,
    "images": 64,
    "shards": 4,
    "precisions": "float32",
    "xla_flags": "",
    "torch_flags": "--eager --architecture=r50x1 --dtype=float32 --processes=2",
}


def child(flags: argparse.Namespace, task: str, precision: str, **environment: str) -> list[str]:
    """The lines that a task prints; none, with a message, if it fails or takes too long."""
    names = ("model", "side", "batch_size", "seconds", "golden")
    command = [sys.executable, "-m", "benchmarks.gpu_product", f"--task={task}", f"--precisions={precision}"]
    command += [f"--{name}={getattr(flags, name)}" for name in names]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            cwd=Path(__file__).resolve().parents[1],
            timeout=flags.limit,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{task}, {precision}: stopped after {flags.limit:.0f} s", flush=True)
        return []
    if done.returncode:
        print(
            f"{task}, {precision}: failed with {done.returncode}: {done.stderr.strip()[-1500:]}", flush=True
        )
        return []
    print(f"({task}, {precision}: {time.perf_counter() - began:.0f} s in all)", file=sys.stderr, flush=True)
    return done.stdout.splitlines()


def run_rate(flags: argparse.Namespace) -> None:
    """The table of rates in images per second, and the errors."""
    if flags.golden:
        from benchmarks import gpu_tasks

        began = time.perf_counter()
        flags.model, flags.side = gpu_tasks.golden_weights(flags.golden, Path(flags.folder))
        print(f"golden weights: {time.perf_counter() - began:.0f} s", flush=True)
    print(
        f"{flags.model} at {flags.side}, batch {flags.batch_size}\n"
        "| device | precision | handler | input on the device | ratio | the same without gaps | a call after the other, "
        "input copied | load | first batch |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for precision in flags.precisions.split(","):
        print(*child(flags, "rate", precision), sep="\n", flush=True)


def _two(flags: argparse.Namespace, **environment: str) -> tuple[list[dict], str]:
    """What two processes, one after the other, say of the same batch."""
    precision = flags.precisions.split(",")[0]
    runs = []
    for _ in range(2):
        if not (lines := child(flags, "digest", precision, **environment)):
            return [], ""
        runs.append(json.loads(lines[-1]))
    same = "the same bytes" if runs[0]["digest"] == runs[1]["digest"] else "OTHER BYTES in the second process"
    if not all(run["same"] for run in runs):
        same += ", OTHER BYTES in a second call"
    same += f", OTHER BYTES in {others} places" if (others := runs[0]["others"]) else ", in every place"
    return runs, f"{precision}, {same}; first batch " + " and ".join(f"{run['first']:.1f} s" for run in runs)


def run_twice(flags: argparse.Namespace) -> None:
    """Two processes for each set of XLA's flags, which share nothing."""
    for options in flags.xla_flags.split(";"):
        xla = f"{os.environ.get('XLA_FLAGS', '')} {options}".strip()
        runs, text = _two(flags, XLA_FLAGS=xla, TF_XLA_FLAGS=_NOTHING_KEPT)
        rates = ", ".join(f"{run['rate']:.0f}" for run in runs)
        print(f"twice, {options or 'default flags'}: {text or 'not measured'}; {rates} images/s", flush=True)


def run_kept(flags: argparse.Namespace) -> None:
    """Two processes that share a cache which is empty at first."""
    with tempfile.TemporaryDirectory() as cache:
        _, text = _two(flags, BIT_CACHE_DIR=cache)
        files = sorted(Path(cache).rglob("xla_compile_cache*"))
        size = sum(path.stat().st_size for path in files) / 2**20
        where = ", ".join(sorted({path.parent.name for path in files})) or "no folder"
        print(
            f"kept: {text or 'not measured'}; {len(files)} programs, {size:.1f} MiB, in {where}", flush=True
        )


def shards(flags: argparse.Namespace) -> str:
    """The glob of the shards of JPEGs, which are made unless they are there."""
    from benchmarks import inputs

    folder = Path(flags.folder, f"in-{flags.images}-{flags.shards}")
    if not folder.exists():
        inputs.write_shards(folder, flags.images, flags.shards)
    return f"{folder}/in-*.tfrecord"


def run_job(flags: argparse.Namespace) -> None:
    """The complete job, by its command; its lines as they come."""
    for precision in flags.precisions.split(","):
        with tempfile.TemporaryDirectory(dir=flags.folder) as output:
            report = Path(output, "report.json")
            command = [
                sys.executable,
                "-m",
                "pipeline.main",
                f"--input={shards(flags)}",
                f"--output={output}/out",
            ]
            command += [f"--model={flags.model}", f"--precision={precision}", f"--image_size={flags.side}"]
            command += [
                f"--batch_size={flags.batch_size}",
                f"--report_file={report}",
                *flags.job_flags.split(),
            ]
            began = time.perf_counter()
            code = _followed(command, flags.limit)
            seconds = time.perf_counter() - began
            if code:
                print(f"job, {precision}: failed with {code} after {seconds:.0f} s", flush=True)
                continue
            counts = (summary := json.loads(report.read_text()))["counters"]
            total = sum(counts.get(name, 0) for name in _DEVICE_TIMES) / 1000
            rate = f"{(flags.images - flags.batch_size) / total:.0f}" if total else "not known"
            shares = ", ".join(f"{name} {counts.get(name, 0)}" for name in _DEVICE_TIMES)
            print(
                f"job, {precision}: {flags.images} images in {seconds:.1f} s ({flags.images / seconds:.0f}/s); from the first "
                f"batch on {rate} images/s; {shares}; verdict: {summary['verdict']}",
                flush=True,
            )


def _followed(command: Sequence[str], limit_seconds: float) -> int:
    """Runs a command, passes its lines on with the time, and returns its exit code."""
    began = time.perf_counter()
    process = subprocess.Popen(
        ["timeout", str(limit_seconds), *command],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        print(f"  {time.perf_counter() - began:6.1f} s  {line.rstrip()}", flush=True)
    return process.wait()


def run_torch(flags: argparse.Namespace) -> None:
    """The torch script on the same files, without the packages that are laid out for TensorFlow."""
    os.environ.pop("PYTHONPATH", None)
    os.environ.pop("LD_LIBRARY_PATH", None)
    if subprocess.run(
        [flags.torch_python, "-c", "import torch, timm"], capture_output=True, check=False
    ).returncode:
        print(f"{flags.torch_python} has no torch and timm: --torch_python names one that has", flush=True)
        return
    with tempfile.TemporaryDirectory(dir=flags.folder) as output:
        script = str(Path(__file__).with_name("torch_job.py"))
        command = [flags.torch_python, script, shards(flags), output, f"--side={flags.side}"]
        command += [f"--batch_size={flags.batch_size}", f"--dtype={flags.precisions.split(',')[0]}"]
        if code := _followed([*command, *flags.torch_flags.split()], flags.limit):
            print(f"torch: failed with {code}", flush=True)


PARTS = {"rate": run_rate, "twice": run_twice, "kept": run_kept, "job": run_job, "torch": run_torch}


def main() -> int:
    """Runs the parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--model", default="untrained/r101x3")
    parser.add_argument(
        "--precisions", default="bfloat16", help="separated by commas; twice, kept and torch: the first"
    )
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=4, help="of each rate")
    parser.add_argument("--limit", type=float, default=150, help="seconds of each process")
    parser.add_argument(
        "--golden", default="", metavar="FILE", help="rate: with these weights of tests/golden, and errors"
    )
    parser.add_argument(
        "--xla_flags", default=XLA_FLAGS, help="twice: sets of flags, separated by semicolons"
    )
    parser.add_argument("--images", type=int, default=24576)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="for weights, images and outputs")
    parser.add_argument("--job_flags", default="", help="more flags of the job")
    parser.add_argument("--torch_flags", default="", help="more flags of benchmarks/torch_job.py")
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if unknown := set(flags.parts) - PARTS.keys():
        parser.error(f"no part {min(unknown)!r}; there are {', '.join(PARTS)}")
    if flags.task:
        from benchmarks import gpu_tasks

        what = gpu_tasks.Measured(flags.model, flags.precisions, flags.side, flags.batch_size, flags.seconds)
        gpu_tasks.rates(what, flags.golden) if flags.task == "rate" else gpu_tasks.digest(what)
        return 0
    if subprocess.run("nvidia-smi -L", shell=True, capture_output=True, check=False).returncode:
        print(
            "There is no GPU, so these figures say nothing: the parts are checked with a small network on the CPU."
        )
        vars(flags).update(_SMALL)
    Path(flags.folder).mkdir(parents=True, exist_ok=True)
    for part in flags.parts or PARTS:
        PARTS[part](flags)
    return 0


if __name__ == "__main__":
    exit_with(main)
