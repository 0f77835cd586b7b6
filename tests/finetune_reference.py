"""Writes a trajectory of the tiny network in the format of tests/golden/finetune, from plain formulas in float64.

Shares no code with the product: standardization, GroupNorm, MixUp, accumulation and the optimizer are written out as the
README of the golden files has them, and TensorFlow's own gradients are taken of them. The starting weights are the product's.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from bit.models import ARCHITECTURES
from bit.weights import Untrained, shapes
from tests.golden.finetune import weights_ft

# Two micro-batches with MixUp, across the end of the warm-up.
CASE = weights_ft.Case(
    "case-tiny-24px-accumulate-mixup", "tiny", None, 0, data_seed=2921, side=24, precrop=32, classes=5, batch=8, micro_batches=2,
    dataset_size=1_000_000, mixup_alpha=0.1, first_step=499, steps=3, base_lr=0.01,
)  # fmt: skip
_GROUPS, _WARM_UP = 8, 500
_KERNELS = (
    "head/conv2d/kernel",
    "head/conv2d/bias",
    "group_norm/gamma",
    "block3/unit01/b/standardized_conv2d/kernel",
)


def write(path: Path, case: weights_ft.Case = CASE) -> None:
    """Runs the case, and writes what the golden files hold of one."""
    tiny = ARCHITECTURES["tiny"]
    names = list(shapes(tiny, case.classes))
    start = {
        name: np.zeros(shape) if name.startswith("head/") else Untrained(tiny).array(name).astype(np.float64)
        for name, shape in shapes(tiny, case.classes).items()
    }
    weights, momentum = dict(start), {name: np.zeros_like(value) for name, value in start.items()}
    out: dict[str, list] = {name: [] for name in ("loss", "learning_rate", "gradient_norm", "pixels_sha256")}
    batches = weights_ft.batches(case)
    for step, drawn in enumerate(batches, case.first_step):
        rate = case.base_lr * step / _WARM_UP if step < _WARM_UP else case.base_lr
        losses, gradients = [], {name: np.zeros_like(value) for name, value in start.items()}
        for number, rows in enumerate(np.split(np.arange(case.batch), case.micro_batches)):
            loss, parts = _gradients(weights, drawn, rows, drawn.mixup_permutation[number])
            losses.append(loss)
            for name in names:
                gradients[name] += parts[name] / case.micro_batches
        for name in names:
            momentum[name] = 0.9 * momentum[name] + gradients[name]
            weights[name] = weights[name] - rate * momentum[name]
        out["loss"].append(np.mean(losses))
        out["learning_rate"].append(rate)
        out["gradient_norm"].append([np.linalg.norm(gradients[name]) for name in names])
        out["pixels_sha256"].append(weights_ft.digest(drawn.pixels))
    kept = {f"final/resnet/{name}": weights[name] for name in _KERNELS}
    kept |= {f"change/resnet/{name}": weights[name] - start[name] for name in _KERNELS}
    kept |= {f"momentum/resnet/{name}": momentum[name] for name in _KERNELS}
    kept |= {
        "recipe": json.dumps(dataclasses.asdict(case)),
        "parameter": [f"resnet/{name}" for name in names],
        "logits_after": _logits(weights, weights_ft.network_input(batches[0].pixels)).numpy(),
        "change_norm": [np.linalg.norm(weights[name] - start[name]) for name in names],
        "momentum_norm": [np.linalg.norm(momentum[name]) for name in names],
    }
    np.savez(path, **{name: np.asarray(value) for name, value in (kept | out).items()})


def _gradients(weights, drawn, rows, partners):
    """The loss of a micro-batch, and its gradients by name."""
    images, labels, share = (
        weights_ft.network_input(drawn.pixels)[rows],
        drawn.labels[rows],
        drawn.mixup_coefficient,
    )
    variables = {name: tf.constant(value, tf.float64) for name, value in weights.items()}
    with tf.GradientTape() as tape:
        tape.watch(variables)
        chances = tf.math.log_softmax(_logits(variables, share * images + (1 - share) * images[partners]))
        own, others = (
            -tf.reduce_mean(tf.gather(chances, of, batch_dims=1)) for of in (labels, labels[partners])
        )
        loss = share * own + (1 - share) * others
    return loss.numpy(), {name: value.numpy() for name, value in tape.gradient(loss, variables).items()}


def _logits(weights, x):
    """(n, h, w, 3) in [-1, 1] -> (n, classes)."""

    def conv(x, name, stride=1):
        kernel = weights[f"{name}/standardized_conv2d/kernel"]
        mean, variance = tf.nn.moments(tf.convert_to_tensor(kernel), [0, 1, 2])
        pad = kernel.shape[0] // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return tf.nn.conv2d(x, (kernel - mean) / tf.sqrt(variance + 1e-10), stride, "VALID")

    def norm_relu(x, name):
        grouped = tf.reshape(x, [*x.shape[:3], _GROUPS, -1])
        mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
        x = tf.reshape((grouped - mean) / tf.sqrt(variance + 1e-5), x.shape)
        return tf.nn.relu(x * weights[f"{name}group_norm/gamma"] + weights[f"{name}group_norm/beta"])

    x = tf.pad(conv(tf.constant(x, tf.float64), "root_block", 2), [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for block in range(1, 5):
        at, stride = f"block{block}/unit01", 1 if block == 1 else 2
        first = norm_relu(x, f"{at}/a/")
        y = norm_relu(conv(first, f"{at}/a"), f"{at}/b/")
        y = norm_relu(conv(y, f"{at}/b", stride), f"{at}/c/")
        x = conv(first, f"{at}/a/proj", stride) + conv(y, f"{at}/c")
    x = tf.reduce_mean(norm_relu(x, ""), [1, 2])
    return x @ weights["head/conv2d/kernel"][0, 0] + weights["head/conv2d/bias"]
