"""Our network on a GPU, beside timm's under torch.compile: `python -m benchmarks.gpu`

The machine with the GPU needs no TensorFlow: `--export=DIR` (TensorFlow, no GPU) writes the graph that the job runs as
StableHLO, and `python benchmarks/gpu.py --graphs=DIR` (JAX; timm if installed) compiles and measures it. Without a GPU
this says so, and checks that the exported graph compiles and agrees with TensorFlow on the CPU.

Forms of the network that may be faster are in `benchmarks.variants`. `--export=DIR --variant=NAME` writes some, and
`--runs=DIR/runs.txt` measures them in one process: a line per run, `GRAPH [XLA_FLAG=VALUE...]`, the most important first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import environments
from bit.command import exit_with

ARCHITECTURE = "r101x3"
SIDES, BATCHES, DTYPES = (224, 480), (32, 64, 128, 256, 512), ("bfloat16", "float16")
_GFLOP = {224: 139.0, 480: 638.1}  # per image; benchmarks.model.gflop
_CHECKED = ("r50x1", 64, 4, "float32")  # small enough for a CPU
_ROUNDS = 10
_TRACED = 10  # batches, back to back


def export(folder: str, architecture: str, side: int, batch: int, dtype: str) -> str:
    """Writes `network.embed` for a GPU as StableHLO, with the weights as arguments after the images; returns its name."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bit import network
    from bit.gpu_form import GPU
    from bit.models import ARCHITECTURES
    from bit.tensorflow import tf
    from bit.weights import shapes

    member = ARCHITECTURES[architecture]
    names = list(shapes(member))
    specs = [tf.TensorSpec((batch, side, side, 3), tf.float32)] + [
        tf.TensorSpec(
            (shape[3], *shape[:3]) if len(shape) == 4 else shape, network.dtype_of(name, tf.as_dtype(dtype))
        )
        for name, shape in shapes(member).items()
    ]

    @tf.function(jit_compile=True, autograph=False)
    def features(images, *weights):
        return network.embed(images, dict(zip(names, weights, strict=True)), member, form=GPU)

    return _write(folder, f"{architecture}-{side}-{batch}-{dtype}", features, specs)


def export_variant(folder: str, architecture: str, side: int, batch: int, name: str) -> str:
    """As `export`, of a form of `benchmarks.variants`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from benchmarks import variants
    from bit.models import ARCHITECTURES
    from bit.tensorflow import tf
    from bit.weights import shapes

    member, variant = ARCHITECTURES[architecture], variants.VARIANTS[name]
    names = list(shapes(member))
    specs = [tf.TensorSpec((batch, side, side, 3), tf.float32)] + [
        tf.TensorSpec(shape, dtype) for shape, dtype in variants.specs_of(variant, member)
    ]
    # XLA reads it while it translates: it becomes the graph's precision_config.
    exact = "float32" in (variant.exact, variant.compute)
    tf.config.experimental.enable_tensor_float_32_execution(not exact)

    @tf.function(jit_compile=True, autograph=False)
    def features(images, *weights):
        return variants.embed(images, dict(zip(names, weights, strict=True)), member, variant)

    return _write(folder, f"{architecture}-{side}-{batch}-{name}", features, specs)


def _write(folder: str, name: str, features: Any, specs: list) -> str:
    text = features.experimental_get_compiler_ir(*specs)(stage="stablehlo")
    text = re.sub(
        r" loc\([^()]*(\([^()]*\))*[^()]*\)|^#loc.*\n", "", text, flags=re.MULTILINE
    )  # names of operations
    with gzip.GzipFile(Path(folder, f"{name}.mlir.gz"), "wb", mtime=0) as file:
        file.write(text.encode())
    arguments = [[list(spec.shape), spec.dtype.name] for spec in specs]
    Path(folder, f"{name}.json").write_text(json.dumps(arguments))
    return name


class Compiled:
    """An exported graph on JAX's first device. (JAX-internal names, which change between versions.)"""

    def __init__(self, folder: str, name: str, flags: dict[str, str | bool | int] | None = None):
        """`flags` are XLA's, for this graph alone."""
        import jax
        from jax._src import xla_bridge
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir

        self._jax, self.device = jax, jax.devices()[0]
        self.arguments = json.loads(Path(folder, f"{name}.json").read_text())
        with mlir.make_ir_context():
            with gzip.open(Path(folder, f"{name}.mlir.gz"), "rt") as file:
                module = ir.Module.parse(file.read())
            options = xla_client.CompileOptions()
            options.env_option_overrides = list((flags or {}).items())
            devices = xla_client.DeviceList((self.device,))
            self.program = xla_bridge.get_backend().compile_and_load(module, devices, options)

    def put(self, values) -> list:
        """Puts arrays on the device, in the dtypes of `arguments`."""
        return [
            self._jax.device_put(self._jax.numpy.asarray(value, dtype), self.device)
            for value, (_, dtype) in zip(values, self.arguments, strict=True)
        ]

    def __call__(self, on_device: list):
        return self.program.execute_sharded(on_device).disassemble_into_single_device_arrays()[0][0]


def random_values(arguments, seed: int = 0):
    """Images in [-1, 1), kernels of variance 1, scales and shifts of norms in [0.5, 1.5)."""
    draw = np.random.default_rng(seed)
    for index, (shape, _) in enumerate(arguments):
        if len(shape) == 4:
            values = draw.standard_normal(shape, np.float32)
            yield np.tanh(values) if not index else values
        else:
            yield draw.uniform(0.5, 1.5, shape).astype(np.float32)


def check_on_cpu(folder: str) -> None:
    """Runs in JAX's environment: compares the graph's vectors with those that TensorFlow wrote to expected.npz."""
    (name,) = (path.stem for path in Path(folder).glob("*.json"))
    with np.load(Path(folder, "expected.npz")) as stored:
        values, expected = [stored[f"a{k}"] for k in range(len(stored.files) - 1)], stored["expected"]
    compiled = Compiled(folder, name)
    got = np.asarray(compiled(compiled.put(values)))
    off = float(np.abs(got - expected).max() / np.abs(expected).max())
    print(f"{name}: compiled by XLA on {compiled.device.platform}; off by {off:.1e} of the largest value")
    if not off < 1e-4:
        raise SystemExit(f"the exported graph's vectors differ from TensorFlow's: off by {off:.1e}")


def _check(folder: str) -> int:
    """Exports a small network with TensorFlow's vectors and has JAX's environment check it."""
    python = environments.python_of("jax")
    if python is None:
        print("The exported graph was not checked, as JAX could not be installed.")
        return 0
    architecture, side, batch, dtype = _CHECKED
    name = export(folder, architecture, side, batch, dtype)
    from bit import network
    from bit.models import ARCHITECTURES
    from bit.tensorflow import tf
    from bit.weights import shapes

    member = ARCHITECTURES[architecture]
    values = list(random_values(json.loads(Path(folder, f"{name}.json").read_text())))
    as_written = [value.transpose(1, 2, 3, 0) if value.ndim == 4 else value for value in values[1:]]
    weights = dict(zip(shapes(member), map(tf.constant, as_written), strict=True))
    expected = network.embed(tf.constant(values[0]), weights, member).numpy()
    arrays = {f"a{k}": value for k, value in enumerate(values)}
    np.savez(Path(folder, "expected.npz"), allow_pickle=False, expected=expected, **arrays)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run([python, __file__, f"--check={folder}"], env=environment, check=False).returncode


def _seconds(run, wait) -> float:
    """Seconds of one call, the best of some rounds after a first one."""
    wait(run())
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        wait(run())
        best = min(best, time.perf_counter() - began)
    return best


def measure_ours(folder: str, name: str) -> dict:
    """Seconds per batch, peak memory in bytes, and the rate of a matrix product in the same dtype."""
    import jax

    compiled = Compiled(folder, name)
    on_device = compiled.put(random_values(compiled.arguments))
    best = _seconds(lambda: compiled(on_device), lambda out: out.block_until_ready())
    peak = (compiled.device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    matrix = jax.numpy.ones((8192, 8192), name.rsplit("-", 1)[1])
    product = jax.jit(lambda a, b: a @ b)
    matrix_seconds = _seconds(lambda: product(matrix, matrix), lambda out: out.block_until_ready())
    return {"seconds": best, "peak": peak, "matrix_gflops": 2 * 8192**3 / matrix_seconds / 1e9}


def measure_timm(side: int, batch: int, dtype: str) -> dict:
    """timm's network with its weights standardized once, channels last, under torch.compile."""
    import torch

    from benchmarks.torch_model import folded

    kind = getattr(torch, dtype)
    model = torch.compile(folded(ARCHITECTURE).to("cuda", kind, memory_format=torch.channels_last))
    images = torch.rand(batch, 3, side, side, device="cuda", dtype=kind).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        best = _seconds(lambda: model(images), lambda _: torch.cuda.synchronize())
    return {"seconds": best, "peak": torch.cuda.max_memory_allocated()}


class _Golden:
    """The seeded weights of tests/golden on the device, each dtype made once; made while the first graph compiles."""

    def __init__(self, architecture: str, side: int):
        from bit.models import ARCHITECTURES
        from bit.weights import STANDARDIZED, shapes, standardize
        from tests.golden import weights

        self._kept: dict[tuple, Any] = {}
        self._arrays: list[np.ndarray] = []
        file = Path(weights.__file__).parent / f"{architecture}-{side}px-seed0.npz"
        with np.load(file) as stored:
            self.right = stored["features"].astype(np.float64)
        self.pictures = weights.images(len(self.right), side).astype(np.float32) / 127.5 - 1.0

        def make() -> None:
            made = weights.make(architecture)
            for name in shapes(ARCHITECTURES[architecture]):
                value = made.pop(f"resnet/{name}")
                self._arrays.append(standardize(value) if name.endswith(STANDARDIZED) else value)

        self._making = threading.Thread(target=make)
        self._making.start()

    def arguments(self, compiled: Compiled) -> list:
        """What the graph takes: a batch of the golden pictures, again and again, and the weights."""
        import jax

        self._making.join()
        (batch, side, _, _), _ = compiled.arguments[0]
        known = side == self.pictures.shape[1]
        draw = np.random.default_rng(0)
        pictures = self.pictures if known else np.tanh(draw.standard_normal((2, side, side, 3), np.float32))
        out = [jax.device_put(np.resize(pictures, (batch, side, side, 3)), compiled.device)]
        for index, (value, (shape, dtype)) in enumerate(
            zip(self._arrays, compiled.arguments[1:], strict=True)
        ):
            key = index, dtype, tuple(shape)
            if key not in self._kept:
                if value.shape != key[2]:  # Variant.by_output
                    value = value.transpose(3, 0, 1, 2)
                self._kept[key] = jax.device_put(value, compiled.device).astype(dtype)
            out.append(self._kept[key])
        return out

    def error(self, got: np.ndarray, side: int) -> str:
        """Relative L2, and the largest error of the largest feature; of other pictures, whether all is finite."""
        if side != self.pictures.shape[1]:
            return "finite" if np.isfinite(got).all() else "not finite"
        off = got[: len(self.right)] - self.right
        largest = np.abs(off).max() / np.abs(self.right).max()
        return f"{np.linalg.norm(off) / np.linalg.norm(self.right):.2e} / {largest:.2e}"


def runs(path: str, seconds: float, out: str) -> None:
    """Measures each line of a file; starts none after `seconds`. `out`: folder for the compiled graphs and kernel times."""
    began = time.monotonic()
    lines = [line.split() for line in Path(path).read_text().splitlines() if line and line[0] != "#"]
    known = _Golden(ARCHITECTURE, 224)
    print(
        "| graph | XLA's flags | images/s | at best | ms | relative L2 / of the largest | temporary GiB | compiled in s |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for number, (name, *flags) in enumerate(lines):
        if time.monotonic() - began > seconds:
            print(f"not started: {len(lines) - number} of {len(lines)}", flush=True)
            break
        row = f"| {name} | {' '.join(flags)} |"
        try:
            compiling = time.monotonic()
            compiled = Compiled(str(Path(path).parent), name, dict(map(_flag, flags)))
            compiling = time.monotonic() - compiling
            print(f"{row} {_rates(compiled, known)} {compiling:.0f} |", flush=True)
            print(_kernels(compiled, known, out, f"{number:02d}-{name}"), flush=True)
        except Exception as error:  # the next one may work
            print(f"{row} failed: {type(error).__name__}: {str(error)[:300]!r} |", flush=True)


def _flag(text: str) -> tuple[str, str | bool | int]:
    name, value = text.split("=", 1)
    return name, {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)


def _rates(compiled: Compiled, known: _Golden) -> str:
    (batch, side, _, _), _ = compiled.arguments[0]
    arguments = known.arguments(compiled)
    got = np.asarray(compiled(arguments))
    best = _seconds(lambda: compiled(arguments), lambda out: out.block_until_ready())
    count = max(10, int(1.0 / best))
    began = time.perf_counter()
    for _ in range(count):
        last = compiled(arguments)
    last.block_until_ready()
    mean = (time.perf_counter() - began) / count
    try:
        memory = compiled.program.get_compiled_memory_stats().temp_size_in_bytes / 2**30
    except Exception:
        memory = float("nan")  # not in every version of JAX
    error = known.error(got, side)
    return f"{batch / mean:.0f} | {batch / best:.0f} | {mean * 1e3:.2f} | {error} | {memory:.1f} |"


def _kernels(compiled: Compiled, known: _Golden, out: str, name: str) -> str:
    """A line: the kinds of kernels and their milliseconds per batch. Adds the compiled graph to a zip file in `out`."""
    import jax

    with zipfile.ZipFile(Path(out, "compiled.zip"), "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.hlo.txt", compiled.program.hlo_modules()[0].to_string())
    try:
        from jax.profiler import ProfileData

        arguments = jax.block_until_ready(known.arguments(compiled))
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(_TRACED):
                    last = compiled(arguments)
                last.block_until_ready()
            (trace,) = Path(folder).rglob("*.xplane.pb")
            profile = ProfileData.from_file(str(trace))
            kinds: Counter[str] = Counter()
            each: Counter[str] = Counter()
            began, ended = [], []
            for plane in profile.planes:
                for line in plane.lines if "GPU" in plane.name else ():
                    for event in line.events if "Stream" in line.name else ():
                        ms = event.duration_ns / 1e6 / _TRACED
                        each[event.name] += ms
                        kinds[re.sub(r"[_.\d]+$", "", event.name)[:60]] += ms
                        began.append(event.start_ns)
                        ended.append(event.start_ns + event.duration_ns)
        span = (max(ended) - min(began)) / 1e6 / _TRACED if began else 0.0
        with zipfile.ZipFile(Path(out, "compiled.zip"), "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{name}.kernels.txt", "".join(f"{ms:.4f} {k}\n" for k, ms in each.most_common()))
        largest = "; ".join(f"{kind} {ms:.2f}" for kind, ms in kinds.most_common(14))
        return f"    kernels: {sum(each.values()):.2f} ms in {span:.2f}: {largest}"
    except Exception as error:
        return f"    no kernel times: {type(error).__name__}: {error}"


def _measured(arguments: list[str]) -> dict | str:
    """One measurement in its own process, so that its peak memory is its own; or the error message."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if not done.returncode else done.stderr.strip()[-200:]


def table(folder: str) -> None:
    """Runs on the machine with the GPU, over what `--export` wrote."""
    print(
        "| network | side | batch | dtype | images/s | share of matrix rate | peak GiB |\n|---|---|---|---|---|---|---|"
    )
    matrix: dict[str, float] = {}
    for path in sorted(Path(folder).glob("*.json")):
        _, side, batch, dtype = path.stem.split("-")
        runs = {
            "ours": [f"--one={path.stem}", f"--graphs={folder}"],
            "timm": [f"--timm={side},{batch},{dtype}"],
        }
        for network, arguments in runs.items():
            result = _measured(arguments)
            row = f"| {network} | {side} | {batch} | {dtype} |"
            if isinstance(result, str):
                print(
                    f"{row} failed: {result.splitlines()[-1] if result else 'no message'} | | |", flush=True
                )
                continue
            matrix[dtype] = result.get("matrix_gflops", matrix.get(dtype, float("nan")))
            rate = int(batch) / result["seconds"]
            share = rate * _GFLOP[int(side)] / matrix[dtype]
            print(f"{row} {rate:.0f} | {share:.0%} | {result['peak'] / 2**30:.1f} |", flush=True)


def main() -> int:
    """Exports, measures or checks, as the flags say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--export", metavar="DIR", help="write the graphs to this folder; needs TensorFlow, no GPU"
    )
    parser.add_argument(
        "--graphs", metavar="DIR", help="measure the graphs that --export wrote; needs JAX and a GPU"
    )
    parser.add_argument(
        "--variant", action="append", help="export this form of benchmarks.variants; may be repeated"
    )
    parser.add_argument("--shape", default="224,128", help="side and batch of the variants")
    parser.add_argument("--runs", metavar="FILE", help="measure the variants that this file names; needs JAX")
    parser.add_argument("--seconds", type=float, default=420.0, help="of --runs: start none after this time")
    parser.add_argument("--out", default=".", help="of --runs: folder for what the compiler made")
    parser.add_argument("--check", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--timm", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export:
        Path(args.export).mkdir(parents=True, exist_ok=True)
        for variant in args.variant or ():
            side, batch = map(int, args.shape.split(","))
            print(export_variant(args.export, ARCHITECTURE, side, batch, variant), flush=True)
        for side in () if args.variant else SIDES:
            for batch in BATCHES:
                for dtype in DTYPES:
                    print(export(args.export, ARCHITECTURE, side, batch, dtype), flush=True)
    elif args.runs:
        runs(args.runs, args.seconds, args.out)
    elif args.check:
        check_on_cpu(args.check)
    elif args.one:
        print(json.dumps(measure_ours(args.graphs, args.one)))
    elif args.timm:
        side, batch, dtype = args.timm.split(",")
        print(json.dumps(measure_timm(int(side), int(batch), dtype)))
    elif args.graphs and subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0:
        table(args.graphs)
    else:
        print(
            "There is no GPU, so nothing is measured; the exported graph is compiled and compared on the CPU."
        )
        with tempfile.TemporaryDirectory() as folder:
            return _check(folder)
    return 0


if __name__ == "__main__":
    exit_with(main)
