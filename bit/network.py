"""The BiT network (ResNet-v2 with weight standardization and GroupNorm) as a TensorFlow graph.

Source: arXiv 1912.11370; parity with google-research/big_transfer `bit_pytorch/models.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow as tf

from bit.models import Architecture
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZED

GROUP_NORM_EPSILON = 1e-5


def embed(
    images: tf.Tensor, weights: Mapping[str, tf.Tensor], architecture: Architecture, compute: tf.DType
) -> tf.Tensor:
    """float32 (n, h, w, 3) RGB in [-1, 1] -> pooled features, float32 (n, architecture.embedding_size).

    `weights` holds standardized kernels by official name, in the dtype `compute`, and float32 norms.
    Convolutions run in `compute`; the residual stream and all statistics stay float32.
    """

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel = weights[f"{name}/{STANDARDIZED}"]
        side = kernel.shape[0]
        # The authors pad (side - 1) / 2 on all sides: TensorFlow's SAME does so at stride 1 only.
        pad = side // 2
        padding = "SAME" if stride == 1 else [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        return tf.nn.conv2d(x, kernel, stride, padding)

    def norm_relu(x: tf.Tensor, name: str) -> tf.Tensor:
        gamma, beta = weights[f"{name}/group_norm/gamma"], weights[f"{name}/group_norm/beta"]
        return tf.cast(group_norm_relu(x, gamma, beta, architecture.groups), compute)

    x = tf.cast(conv(tf.cast(images, compute), "root_block", stride=2), tf.float32)
    # Padding with zeros and not with -inf: root outputs may be negative.
    x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
    for block, units in enumerate(architecture.units, 1):
        for unit in range(1, units + 1):
            at = f"block{block}/unit{unit:02d}"
            stride = 2 if unit == 1 and block > 1 else 1
            y = norm_relu(x, f"{at}/a")
            # The projection sees the pre-activated input, unlike in the original ResNet-v2.
            shortcut = tf.cast(conv(y, f"{at}/a/proj", stride), tf.float32) if unit == 1 else x
            y = norm_relu(conv(y, f"{at}/a"), f"{at}/b")
            y = norm_relu(conv(y, f"{at}/b", stride), f"{at}/c")  # the stride sits on the 3x3
            x = shortcut + tf.cast(conv(y, f"{at}/c"), tf.float32)
    x = group_norm_relu(x, weights["group_norm/gamma"], weights["group_norm/beta"], architecture.groups)
    return tf.reduce_mean(x, [1, 2])


def classify(embedding: tf.Tensor, weights: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """float32 features (n, c) -> logits, float32 (n, classes)."""
    return tf.matmul(embedding, weights[HEAD_KERNEL][0, 0]) + weights[HEAD_BIAS]


def most_likely(logits: tf.Tensor, count: int, multi_label: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits (n, classes) -> the `count` best classes, int32 (n, count), and their probabilities, float32.

    `multi_label` takes each class by itself (sigmoid), as ImageNet-21k heads were trained; else softmax.
    """
    values, classes = tf.math.top_k(logits, count)
    if multi_label:
        return classes, tf.sigmoid(values)
    return classes, tf.exp(values - tf.reduce_logsumexp(logits, 1, keepdims=True))


def standardize(kernel: tf.Tensor) -> tf.Tensor:
    """bit.weights.standardize in the graph, for a network that is trained."""
    rows, channels = kernel.shape.num_elements() // kernel.shape[-1], kernel.shape[-1]
    inner = next(size for size in range(math.isqrt(rows), 0, -1) if rows % size == 0)

    def average(value: tf.Tensor) -> tf.Tensor:
        # In two steps: one float32 sum over 13,824 rows loses as much as parity allows in all.
        return tf.reduce_mean(tf.reduce_mean(tf.reshape(value, [-1, inner, channels]), 1), 0)

    centred = kernel - average(kernel)
    return centred * tf.math.rsqrt(average(tf.square(centred)) + 1e-10)


def group_norm_relu(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int) -> tf.Tensor:
    """GroupNorm and ReLU of (n, h, w, c), as one scale and shift for each picture and channel.

    One pass gathers per-channel sums, one applies: the groups are only formed on (n, c).
    """
    x = tf.cast(x, tf.float32)
    channels = x.shape[-1]
    pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2] * (channels // groups), tf.float32)

    def by_group(sums: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.reshape(sums, [-1, groups, channels // groups]), 2, keepdims=True) / pixels

    mean = by_group(tf.reduce_sum(x, [1, 2]))
    variance = by_group(tf.reduce_sum(tf.square(x), [1, 2])) - tf.square(mean)
    inverse = tf.math.rsqrt(tf.maximum(variance, 0.0) + GROUP_NORM_EPSILON)
    scale = tf.reshape(inverse * tf.reshape(gamma, [groups, -1]), [-1, 1, 1, channels])
    shift = tf.reshape(beta, [groups, -1]) - tf.reshape(scale, [-1, groups, channels // groups]) * mean
    return tf.nn.relu(x * scale + tf.reshape(shift, [-1, 1, 1, channels]))
