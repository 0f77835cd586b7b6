"""The functions of a SavedModel that take images, and which of their outputs are `embedding` and `logits`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bit.errors import UnusableModel
from bit.tensorflow import tf

KNOWN = ("embedding", "logits")
_NEEDED = (
    "a SavedModel needs a function of float32 images (n, height, width, 3) in [0, 1] that returns float32 (n, d), "
    "as the module's own call or as a signature with that single input"
)


@dataclass(frozen=True)
class Function:
    """A function of float32 images (n, side, side, 3) in [0, 1].

    An output without a name is called output_0, as TensorFlow does where it writes signatures.
    """

    label: str  # for messages: "the module's call", "signature 'serving_default'"
    call: Callable[[tf.Tensor], Any]
    outputs: Mapping[str, tf.TensorSpec]  # all of them

    @property
    def widths(self) -> dict[str, int]:
        """The size d of each output that is float32 (n, d)."""
        return {
            name: int(spec.shape[1])
            for name, spec in self.outputs.items()
            if spec.dtype == tf.float32 and spec.shape.rank == 2 and spec.shape[1]
        }

    def __call__(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return _named(self.call(images))

    def __str__(self) -> str:
        return f"{self.label}: returns {_listed(self.outputs)}"


@dataclass(frozen=True)
class Choice:
    """A function, and the names that it has for ours."""

    function: Function
    names: Mapping[str, str]  # of KNOWN -> of the function's outputs

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """float32 (n, d) each, by our names."""
        outputs = self.function(images)
        widths = self.function.widths
        return {
            ours: tf.ensure_shape(outputs[theirs], (images.shape[0], widths[theirs]))
            for ours, theirs in self.names.items()
        }


def functions(module: Any, path: str, image_size: int) -> list[Function]:
    """The module's own call and its signatures, those of them that take such images and return vectors.

    Raises UnusableModel, which lists what there is, if there is none.
    """
    spec = tf.TensorSpec((None, image_size, image_size, 3), tf.float32)
    usable: list[Function] = []
    unusable: list[str] = []
    sizes: set[str] = set()
    for label, call, concrete_functions in _candidates(module):
        inputs = [image for function in concrete_functions if (image := _image_input(function)) is not None]
        fixed = {f"{i.shape[1]}x{i.shape[2]}" for i in inputs if not i.is_compatible_with(spec)}
        if not inputs or len(fixed) == len(inputs):
            sizes |= fixed
            unusable += [f"{label}: {_described(function)}" for function in concrete_functions]
            continue
        traced = tf.function(call, autograph=False).get_concrete_function(spec)
        function = Function(label, call, _named(traced.structured_outputs))
        if function.widths:
            usable.append(function)
        else:
            unusable.append(str(function))
    if usable:
        return usable
    if sizes:
        raise UnusableModel(
            f"{path} takes images of {', '.join(sorted(sizes))} only, not of {image_size}x{image_size}: "
            "set --image_size accordingly"
        )
    raise UnusableModel(
        "\n  ".join([f"{path} has no usable signature; {_NEEDED}. It has:", *(unusable or ["no function"])])
    )


def choose(
    functions: Sequence[Function],
    path: str,
    wanted: Iterable[str],
    outputs_map: Mapping[str, str],
    by_width: Mapping[int, str],
) -> Choice:
    """The first function with most of the `wanted` outputs. Raises UnusableModel if no output is known to be any of ours.

    An output is known by its name, by `outputs_map` (ours -> theirs), or, as the function's only one, by its width.
    """
    for ours, theirs in outputs_map.items():
        if not any(theirs in function.widths for function in functions):
            raise UnusableModel(
                "\n  ".join(
                    [
                        f"--outputs_map={ours}={theirs}: {path} has no output {theirs!r} that is float32 (n, d). It has:",
                        *map(str, functions),
                    ]
                )
            )
    choices = [Choice(function, _ours(function, outputs_map, by_width)) for function in functions]
    best = max(choices, key=lambda choice: (len(choice.names.keys() & set(wanted)), len(choice.names)))
    if best.names:
        return best
    raise UnusableModel(
        "\n  ".join(
            [
                f"{path} has no output that is named {' or '.join(KNOWN)}. It has:",
                *map(str, functions),
                f"Say what an output is, for example with {example(functions)} (top_k comes from the logits); of a network "
                "that returns features, embedding=...",
            ]
        )
    )


def example(functions: Sequence[Function]) -> str:
    """The flag that would make the first output of any function the logits."""
    return f"--outputs_map=logits={next(iter(functions[-1].widths))}"


def _ours(function: Function, outputs_map: Mapping[str, str], by_width: Mapping[int, str]) -> dict[str, str]:
    widths = function.widths
    names = {ours: theirs for ours, theirs in outputs_map.items() if theirs in widths}
    names |= {
        name: name
        for name in KNOWN
        if name in widths and name not in outputs_map and name not in outputs_map.values()
    }
    if not names and not outputs_map and len(function.outputs) == 1:
        names = {by_width[width]: name for name, width in widths.items() if width in by_width}
    return names


def _named(structure: Any) -> dict[str, Any]:
    if isinstance(structure, Mapping):
        return {
            name: value for name, value in structure.items() if isinstance(value, tf.Tensor | tf.TensorSpec)
        }
    return {f"output_{index}": value for index, value in enumerate(tf.nest.flatten(structure))}


def _candidates(module: Any) -> list[tuple[str, Callable[[tf.Tensor], Any], list[Any]]]:
    """(label, function of images, its concrete functions) of the module's own call, then of each signature."""
    out: list[tuple[str, Callable[[tf.Tensor], Any], list[Any]]] = []
    if callable(module):
        # A reusable SavedModel may also have a function for training: its default arguments select the other.
        out.append(("the module's call", module, list(module.__call__.concrete_functions)))
    for name, signature in sorted(module.signatures.items()):

        def call(images: tf.Tensor, signature: Any = signature) -> Any:
            (keyword,) = signature.structured_input_signature[1]
            return signature(**{keyword: images})

        out.append((f"signature {name!r}", call, [signature]))
    return out


def _image_input(function: Any) -> tf.TensorSpec | None:
    """The single tensor that a concrete function takes, if that can be a batch of RGB images."""
    specs = [s for s in tf.nest.flatten(function.structured_input_signature) if isinstance(s, tf.TensorSpec)]
    if len(specs) != 1 or not specs[0].is_compatible_with(tf.TensorSpec((None, None, None, 3), tf.float32)):
        return None
    return specs[0]


def _described(function: Any) -> str:
    specs = [s for s in tf.nest.flatten(function.structured_input_signature) if isinstance(s, tf.TensorSpec)]
    takes = ", ".join(f"{s.dtype.name} {s.shape}" for s in specs) or "nothing"
    return f"takes {takes}, returns {_listed(_named(function.structured_outputs))}"


def _listed(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {t.dtype.name} {t.shape}" for name, t in outputs.items()) or "nothing"
