"""Loads a model of the family into memory, pixels in, vectors out, and tests it once on a bundled picture."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np

from bit import cpu_form, digests, network, saved_model, self_test, tensorfloat32, tuned
from bit import outputs as output_names
from bit.checkpoint import open_checkpoint
from bit.from_weights import Loaded, build, tensor_of
from bit.labels import Labels, of_names, read_labels
from bit.models import ARCHITECTURES, HEADS, PRECISIONS, Model, UnusableModel
from bit.outputs import TOP_CLASS, TOP_PROBABILITY
from bit.tensorflow import tf
from bit.weights import UNTRAINED_VERSION, Untrained

log = logging.getLogger(__name__)
_device_lock = threading.Lock()

Graph = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class Extractor:
    """A loaded model with one fixed input shape. Thread-safe.

    Each image's vector depends on its own pixels only.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        batch_size: int,
        image_size: int,
        precision: str,
        identity: Mapping[str, str],
        labels: Labels | None = None,
        exact: Callable[[], Extractor] | None = None,
    ) -> None:
        """`graph` takes and returns tensors as `__call__` does arrays; `labels` name its top_k classes.

        `exact` loads the same model in float32 for one image, where this one is in a reduced precision.
        """
        self.batch_size = batch_size
        self.image_size = image_size
        self.precision = precision
        self.identity = MappingProxyType(dict(identity))
        self.device = _device_name()
        self._shape = (batch_size, image_size, image_size, 3)
        self._exact = exact
        self._graph = graph  # keeps a SavedModel's variables alive: functions refer to them weakly
        # XLA fuses the norms on a GPU; on a CPU it is slower than oneDNN and knows no bfloat16 instructions.
        compiled = True if _gpus() and identity["route"] != "saved_model" else None
        spec = tf.TensorSpec(self._shape, tf.float32)
        function = tf.function(graph, autograph=False, jit_compile=compiled).get_concrete_function(spec)
        # float32 stays float32; in the others, what is left in float32 may be TF32: the rest is rounded more.
        each_call = bool(_gpus()) and not compiled
        self._function = tensorfloat32.compiled(function, precision != "float32", each_call)
        specs = function.structured_outputs
        self._labels = labels if TOP_CLASS in specs else None
        widths = {name: int(value.shape[1]) for name, value in specs.items()}
        if self._labels:
            widths |= dict.fromkeys(self._labels.of(np.zeros((1, 1), np.int64)), widths[TOP_CLASS])
        self.outputs = MappingProxyType(widths)

    def resized(self, batch_size: int) -> Extractor:
        """The same network, sharing its weights, for another batch size."""
        return Extractor(
            self._graph,
            batch_size=batch_size,
            image_size=self.image_size,
            precision=self.precision,
            identity=self.identity,
            labels=self._labels,
            exact=self._exact,
        )

    def in_float32(self, pixels: np.ndarray) -> dict[str, np.ndarray] | None:
        """float32 (n, image_size, image_size, 3) -> outputs (n, d), one at a time; None if this model needs no such help.

        The first call loads the weights once more, and compiles.
        """
        if self._exact is None:
            return None
        exact = self._exact()
        each = [exact(pixels[index : index + 1]) for index in range(len(pixels))]
        return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (batch_size, image_size, image_size, 3) RGB in [0, 255] -> (batch_size, d) each.

        Float32; of top_k's features, classes are int64, synsets and names bytes. Raises ValueError for another shape.
        """
        return self.fetch(self.launch(self.put(pixels)))

    def put(self, pixels: np.ndarray) -> tf.Tensor:
        """The pixels on the device, once they are there; on a CPU in the array's own memory, if that is aligned."""
        if pixels.shape != self._shape:
            raise ValueError(f"pixels of shape {pixels.shape}, expected {self._shape}: pad the batch")
        here = tensor_of(pixels)
        if not self.device:
            return here
        with tf.device("/GPU:0"):
            return tf.identity(here)

    def launch(self, on_device: tf.Tensor) -> dict[str, tf.Tensor]:
        """Starts computing on what `put` returned. A GPU goes on with it after this has returned."""
        return self._function(on_device)

    def back(self, on_device: tf.Tensor) -> np.ndarray:
        """The pixels that `put` copied to the device."""
        return on_device.numpy()

    def fetch(self, launched: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
        """The outputs of `launch` as `__call__` returns them, once they are computed."""
        out = {name: value.numpy() for name, value in launched.items()}
        if TOP_CLASS in out:
            out[TOP_CLASS] = out[TOP_CLASS].astype(np.int64)
        if self._labels:
            out |= self._labels.of(out[TOP_CLASS])
        return out


def load(
    model: Model,
    path: str,
    *,
    image_size: int,
    batch_size: int,
    precision: str = "float32",
    outputs: tuple[str, ...] = ("embedding",),
    top_k: int = 5,
    outputs_map: Mapping[str, str] = MappingProxyType({}),
    class_names: Sequence[str] = (),
) -> Extractor:
    """Loads `model`, whose weights are at the local `path` ('' for untrained ones), for one batch shape.

    `outputs` are of bit.outputs.OUTPUTS; `top_k` is the number of classes of the last one. `outputs_map` says which outputs of a
    SavedModel from elsewhere are `embedding` and `logits`. `class_names` are those of a tuned head, unless they lie beside
    the weights (`bit.tuned`). Raises UnusableModel if the model has no such output, cannot take `image_size` or run in
    `precision`; SelfTestFailed if it computes wrongly.
    """
    outputs = output_names.in_order(outputs)
    output_names.check(model, outputs, top_k, output_names.classes(model))
    if precision not in PRECISIONS:
        raise UnusableModel(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    _prepare_device(precision)
    if precision == "float32" and batch_size > 1 and _gpus():
        _suggest_reduced_precisions()
    wanted = {"logits" if name == "top_k" else name for name in outputs}
    if not model.architecture and (own := tuned.read_preprocessing(path, model.kind).image_size) not in (
        0,
        image_size,
    ):
        log.warning(
            "%s was tuned on images of %d pixels and runs on %d: --image_size=%d fits it",
            model.name,
            own,
            image_size,
            own,
        )
    if model.kind == "saved_model" or os.path.isdir(path):  # some mirrors have a checkpoint as a module
        loaded, identity = saved_model.load(model, path, image_size, precision, wanted, outputs_map)
        output_names.check(model, outputs, top_k, loaded.classes or None)
    else:
        loaded, identity = _from_arrays(model, path, image_size, precision, outputs, top_k)
    # Of one SavedModel other outputs may be called so.
    tested = identity["weights"] + "".join(
        f"\n{ours}={theirs}" for ours, theirs in sorted(outputs_map.items())
    )
    identity = {**identity, **_self_test(loaded, tested, path, image_size, precision)}
    labels, multi_label = (
        _labels(model, path, loaded.classes, class_names) if "top_k" in outputs else (None, False)
    )
    in_float32 = functools.partial(
        load,
        model,
        path,
        image_size=image_size,
        batch_size=1,
        outputs=outputs,
        top_k=top_k,
        outputs_map=outputs_map,
        class_names=class_names,
    )

    def graph(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        values = loaded.graph(pixels)
        out = {name: values[name] for name in outputs if name in values}
        if "top_k" in outputs:
            logits = values["logits"] if _gpus() else cpu_form.padded(values["logits"])
            best, probabilities = network.most_likely(logits, top_k, multi_label)
            rows = pixels.shape[0]
            out |= {TOP_CLASS: best[:rows], TOP_PROBABILITY: probabilities[:rows]}
        return out

    # Two precisions may have the same graph; XLA's cache, which processes share, tells them apart by this name.
    graph.__name__ = f"features_{precision}"
    return Extractor(
        graph,
        batch_size=batch_size,
        image_size=image_size,
        precision=precision,
        identity=identity,
        labels=labels,
        exact=_once(in_float32) if precision in ("bfloat16", "float16") else None,
    )


def _labels(model: Model, path: str, classes: int, names: Sequence[str]) -> tuple[Labels | None, bool]:
    """The classes' names, if known, and whether each class has a probability of its own. Raises UnusableModel."""
    if not model.architecture:
        names = names or tuned.read_names(path, model.kind)
    if names:
        tuned.check_names(names, classes, f"{tuned.CLASSES} of {model.name}")
        return of_names(names), False
    task = output_names.task(model, classes)
    return read_labels(task), task == "imagenet21k"


def _once(make: Callable[[], Extractor]) -> Callable[[], Extractor]:
    """Returns what the first call that succeeds makes, from any thread."""
    lock = threading.Lock()
    kept: list[Extractor] = []

    def get() -> Extractor:
        with lock:
            if not kept:
                kept.append(make())
            return kept[0]

    return get


def _from_arrays(
    model: Model, path: str, image_size: int, precision: str, outputs: tuple[str, ...], top_k: int
) -> tuple[Loaded, dict[str, str]]:
    exact_at = image_size if precision != "float32" or _gpus() else 0
    head = outputs != ("embedding",)
    if model.kind == "untrained":
        weights = Untrained(ARCHITECTURES[model.architecture], HEADS.get(model.head, 0))
        name = f"{UNTRAINED_VERSION}/{model.architecture}{f'/{model.head}' if model.head else ''}"
        loaded = build(weights, precision, head, exact_at)
        return loaded, {"route": "npz", "weights": name, "untrained": "true"}
    checkpoint = open_checkpoint(path, model.architecture)
    output_names.check(model, outputs, top_k, checkpoint.classes)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(digests.of_file, path)
        loaded = build(checkpoint, precision, head, exact_at)
        identity = {"route": "npz", "weights": f"sha256:{digest.result()}"}
        return loaded, identity | loaded.arrays(head)


def _self_test(loaded: Loaded, weights: str, path: str, side: int, precision: str) -> dict[str, str]:
    """Runs the bundled picture; returns a reduced precision's error against float32, which receipts record."""
    picture = tf.constant(self_test.picture(side))
    with tensorfloat32.allowed(precision != "float32"):
        got = {name: value.numpy() for name, value in loaded.graph(picture).items()}
    exact = got if loaded.exact is None else loaded.exact
    if not all(np.isfinite(values).all() for values in exact.values()):
        raise UnusableModel(
            f"{path or weights} returns values that are not finite for the bundled picture: its weights are damaged, or "
            "of another kind"
        )
    known = self_test.recall(weights, side, path)
    if known and exact.keys() & known.outputs.keys():
        self_test.compare(exact, known.outputs, known.precision, known.path)
    if not known or exact.keys() - known.outputs.keys():
        self_test.remember(weights, exact, side)
    if precision == "float32":
        if exact is not got:
            self_test.compare(got, exact, precision, "float32 on the CPU")
        return {}
    if precision == "float16" and not all(np.isfinite(values).all() for values in got.values()):
        raise UnusableModel(
            f"values of {path or weights} exceed what float16 can hold, already for the bundled picture: use "
            "--precision=bfloat16"
        )
    off = self_test.compare(got, exact, precision, "float32")
    # Two digits: float32's last bits must not appear in the manifest.
    error = {"relative_l2": f"{off.relative_l2:.1e}", "cosine": f"{off.cosine:.4f}"}
    return {f"self_test/{name}": value for name, value in error.items()}


def _gpus() -> list[tf.config.PhysicalDevice]:
    """The GPUs this process uses; it may see others, which are left to other processes."""
    return tf.config.get_visible_devices("GPU")


def _device_name() -> str:
    """The name of this process's GPU, such as 'NVIDIA H200'; '' if it works on the CPU."""
    gpus = _gpus()
    if not gpus:
        return ""
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def _prepare_device(precision: str) -> None:
    with _device_lock:
        for gpu in _gpus():
            # Otherwise TensorFlow takes all memory, and a second worker process on the device gets none.
            if not tf.config.experimental.get_memory_growth(gpu):
                tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.experimental.enable_tensor_float_32_execution(False)  # see bit.tensorfloat32
    if precision in ("tensorfloat32", "float16") and not _gpus():
        raise UnusableModel(
            f"--precision={precision} needs a GPU, and there is none: use float32 or bfloat16"
        )


@functools.cache
def _suggest_reduced_precisions() -> None:
    """Logs it once per process."""
    log.warning(
        "float32 leaves most of a GPU idle: its matrix units are several times faster in --precision=bfloat16, float16 or "
        "tensorfloat32. For the error of each see docs/models.md"
    )
