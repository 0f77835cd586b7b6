"""The BiT network (ResNet-v2 with weight standardization and GroupNorm) as a TensorFlow graph.

Source: arXiv 1912.11370; parity with google-research/big_transfer `bit_pytorch/models.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bit.group_norm import EPSILON, group_norm_relu
from bit.models import Architecture
from bit.tensorflow import tf
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZATION_EPSILON, STANDARDIZED

# Rounding errors here pass through all of the network: three of a hundred convolutions carry a large part of
# bfloat16's error; `python -m benchmarks.error` shows how much.
FLOAT32_IN_BFLOAT16 = ("root_block", "block1/unit01/a", "block1/unit01/a/proj")
# float16 ends at 65504. Kernels of variance 1 make large values, which the next norm divides away: a power of two on all
# of them, and its square on the norms' epsilon, changes no bit of a result but moves that end to 4 million.
FLOAT16_SCALE = 2.0**-6


class Form(NamedTuple):
    """How the network's larger steps are expressed: always the same sums, for a device's sake in another order.

    Attributes:
      stored: a kernel (h, w, cin, cout) as `conv` takes it.
      conv: (x, stored kernel, stride) -> the convolution, padded by (side - 1) / 2 on all sides.
      pool: the maximum of 3x3 at stride 2, of a padded tensor.
      norm_relu: GroupNorm, then ReLU, with the parameters of `bit.group_norm.group_norm_relu`.
      product: (n, c) times (c, d).
    """

    stored: Callable[[tf.Tensor], tf.Tensor]
    conv: Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]
    pool: Callable[[tf.Tensor], tf.Tensor]
    norm_relu: Callable[..., tf.Tensor] = group_norm_relu
    product: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = tf.matmul


def _conv(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    # The authors pad by (side - 1) / 2 on all sides; TensorFlow's SAME does so only at stride 1.
    pad = kernel.shape[0] // 2
    padding = "SAME" if stride == 1 else [[0, 0], [pad, pad], [pad, pad], [0, 0]]
    return tf.nn.conv2d(x, kernel, stride, padding)


PLAIN = Form(lambda kernel: kernel, _conv, lambda x: tf.nn.max_pool2d(x, 3, 2, "VALID"))


def dtype_of(name: str, compute: tf.DType) -> tf.DType:
    """The dtype that array `name` of a checkpoint has in a network whose convolutions run in `compute`."""
    if compute == tf.float64:
        return compute
    layer = name.removesuffix(f"/{STANDARDIZED}")
    exact = layer == name or (compute == tf.bfloat16 and layer in FLOAT32_IN_BFLOAT16)
    return tf.float32 if exact else compute


def prepared(value: tf.Tensor, name: str, compute: tf.DType, form: Form = PLAIN) -> tf.Tensor:
    """Array `name`, float32, standardized, as `embed` takes it for a network whose convolutions run in `compute`."""
    dtype = dtype_of(name, compute)
    value = form.stored(value) if name.endswith(f"/{STANDARDIZED}") else value
    return tf.cast(value * FLOAT16_SCALE if dtype == tf.float16 else value, dtype)


def scaled(pixels: tf.Tensor, to: tuple[float, float]) -> tf.Tensor:
    """Pixels in [0, 255] -> the same in `to`."""
    low, high = to
    return pixels / (255.0 / (high - low)) + low


def embed(
    images: tf.Tensor,
    weights: Mapping[str, tf.Tensor],
    architecture: Architecture,
    compiled: bool = False,
    form: Form = PLAIN,
) -> tf.Tensor:
    """float32 (n, h, w, 3) RGB in [-1, 1] -> pooled features, float32 (n, architecture.embedding_size).

    `weights` holds standardized kernels and norms by official name, as `prepared` returns them for `form`. Each convolution runs
    in the dtype of its kernel, which the residual stream has behind it; all statistics are float32. Where all weights and the
    images are float64, so is everything else. `compiled` allows XLA between the convolutions, if shapes are known.
    """

    def kernel(name: str) -> tf.Tensor:
        return weights[f"{name}/{STANDARDIZED}"]

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        return form.conv(tf.cast(x, kernel(name).dtype), kernel(name), stride)

    def norm_relu(x: tf.Tensor, name: str, dtype: tf.DType) -> tf.Tensor:
        gamma, beta = weights[f"{name}group_norm/gamma"], weights[f"{name}group_norm/beta"]
        epsilon = EPSILON * (FLOAT16_SCALE**2 if x.dtype == tf.float16 else 1.0)
        return form.norm_relu(x, gamma, beta, architecture.groups, dtype, compiled, epsilon)

    def norm_relu_conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        return conv(norm_relu(x, f"{name}/", kernel(name).dtype), name, stride)

    x = conv(images, "root_block", stride=2)
    # Pads with zeros, not with -inf, which differs where all root outputs are negative.
    x = form.pool(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]))
    for block, units in enumerate(architecture.units, 1):
        for unit in range(1, units + 1):
            at = f"block{block}/unit{unit:02d}"
            stride = 2 if unit == 1 and block > 1 else 1
            y = norm_relu(x, f"{at}/a/", kernel(f"{at}/a").dtype)
            # The projection sees the pre-activated input, unlike in the original ResNet-v2.
            shortcut = conv(y, f"{at}/a/proj", stride) if unit == 1 else x
            y = norm_relu_conv(conv(y, f"{at}/a"), f"{at}/b", stride)  # the stride sits on the 3x3
            y = norm_relu_conv(y, f"{at}/c")
            x = tf.cast(shortcut + tf.cast(y, shortcut.dtype), y.dtype)
    return tf.reduce_mean(norm_relu(x, "", weights["group_norm/gamma"].dtype), [1, 2])


def classify(embedding: tf.Tensor, weights: Mapping[str, tf.Tensor], form: Form = PLAIN) -> tf.Tensor:
    """float32 features (n, c) -> logits, float32 (n, classes)."""
    return form.product(embedding, weights[HEAD_KERNEL][0, 0]) + weights[HEAD_BIAS]


def most_likely(logits: tf.Tensor, count: int, multi_label: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits (n, classes) -> the `count` best classes, int32 (n, count), and their probabilities, float32.

    `multi_label` treats each class separately (sigmoid), as ImageNet-21k heads were trained; else softmax.
    """
    values, classes = tf.math.top_k(logits, count)
    if multi_label:
        return classes, tf.sigmoid(values)
    return classes, tf.exp(values - tf.reduce_logsumexp(logits, 1, keepdims=True))


def standardize(kernel: tf.Tensor) -> tf.Tensor:
    """`bit.weights.standardize` in the graph, HWIO float32, for a network that is trained further."""
    rows, channels = kernel.shape.num_elements() // kernel.shape[-1], kernel.shape[-1]
    inner = next(size for size in range(math.isqrt(rows), 0, -1) if rows % size == 0)

    def average(value: tf.Tensor) -> tf.Tensor:
        # In two steps: a single float32 sum over 13,824 rows loses as much as parity allows in total.
        return tf.reduce_mean(tf.reduce_mean(tf.reshape(value, [-1, inner, channels]), 1), 0)

    centred = kernel - average(kernel)
    return centred * tf.math.rsqrt(average(tf.square(centred)) + STANDARDIZATION_EPSILON)
