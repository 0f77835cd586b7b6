"""Our network on a GPU, beside timm's under torch.compile: `python -m benchmarks.gpu`

The machine with the GPU needs no TensorFlow: `--export=DIR` (TensorFlow, no GPU) writes the graph that the job runs as
StableHLO, and `python benchmarks/gpu.py --graphs=DIR` (JAX; timm if installed) compiles and measures it. Without a GPU
this says so, and checks that the exported graph compiles and agrees with TensorFlow on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import environments

ARCHITECTURE = "r101x3"
SIDES, BATCHES, DTYPES = (224, 480), (32, 64, 128, 256, 512), ("bfloat16", "float16")
_GFLOP = {224: 139.0, 480: 638.1}  # per image; benchmarks.model.gflop
_CHECKED = ("r50x1", 64, 4, "float32")  # small enough for a CPU
_ROUNDS = 10


def export(folder: str, architecture: str, side: int, batch: int, dtype: str) -> str:
    """Writes `network.embed` for one shape as StableHLO, with the weights as arguments after the images; returns its name."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from bit import network
    from bit.models import ARCHITECTURES
    from bit.weights import shapes

    member = ARCHITECTURES[architecture]
    names = list(shapes(member))
    specs = [tf.TensorSpec((batch, side, side, 3), tf.float32)] + [
        tf.TensorSpec(shape, network.dtype_of(name, tf.as_dtype(dtype)))
        for name, shape in shapes(member).items()
    ]

    @tf.function(jit_compile=True, autograph=False)
    def features(images, *weights):
        return network.embed(images, dict(zip(names, weights, strict=True)), member)

    text = features.experimental_get_compiler_ir(*specs)(stage="stablehlo")
    name = f"{architecture}-{side}-{batch}-{dtype}"
    Path(folder, f"{name}.mlir").write_text(text)
    arguments = [[list(spec.shape), spec.dtype.name] for spec in specs]
    Path(folder, f"{name}.json").write_text(json.dumps(arguments))
    return name


class Compiled:
    """An exported graph on JAX's first device. (JAX-internal names, which change between versions.)"""

    def __init__(self, folder: str, name: str):
        import jax
        from jax._src import xla_bridge
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir

        self._jax, self.device = jax, jax.devices()[0]
        self.arguments = json.loads(Path(folder, f"{name}.json").read_text())
        with mlir.make_ir_context():
            module = ir.Module.parse(Path(folder, f"{name}.mlir").read_text())
            devices = xla_client.DeviceList((self.device,))
            self._program = xla_bridge.get_backend().compile_and_load(
                module, devices, xla_client.CompileOptions()
            )

    def put(self, values) -> list:
        """Puts arrays on the device, in the dtypes of `arguments`."""
        return [
            self._jax.device_put(self._jax.numpy.asarray(value, dtype), self.device)
            for value, (_, dtype) in zip(values, self.arguments, strict=True)
        ]

    def __call__(self, on_device: list):
        return self._program.execute_sharded(on_device).disassemble_into_single_device_arrays()[0][0]


def random_values(arguments, seed: int = 0):
    """Images in [-1, 1), kernels of variance 1, norms that change nothing."""
    draw = np.random.default_rng(seed)
    for index, (shape, _) in enumerate(arguments):
        if len(shape) == 4:
            values = draw.standard_normal(shape, np.float32)
            yield np.tanh(values) if not index else values
        else:
            yield np.ones(shape, np.float32) if index % 2 else np.zeros(shape, np.float32)


def check_on_cpu(folder: str) -> None:
    """Runs in JAX's environment: compares the graph's vectors with those that TensorFlow wrote to expected.npz."""
    (name,) = (path.stem for path in Path(folder).glob("*.mlir"))
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
    import tensorflow as tf

    from bit import network
    from bit.models import ARCHITECTURES
    from bit.weights import shapes

    member = ARCHITECTURES[architecture]
    values = list(random_values(json.loads(Path(folder, f"{name}.json").read_text())))
    weights = dict(zip(shapes(member), map(tf.constant, values[1:]), strict=True))
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
    parser.add_argument("--check", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--timm", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export:
        Path(args.export).mkdir(parents=True, exist_ok=True)
        for side in SIDES:
            for batch in BATCHES:
                for dtype in DTYPES:
                    print(export(args.export, ARCHITECTURE, side, batch, dtype), flush=True)
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
    raise SystemExit(main())
