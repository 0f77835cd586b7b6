"""GroupNorm and ReLU as one scale and shift for each picture and channel.

One pass over the pixels gathers per-channel sums, one applies: the groups are only formed on (n, c). On a CPU,
TensorFlow walks the tensor once for each operation, eight times in all; XLA makes two loops of them. XLA's own
reductions are slow there, so the compiled part adds up slices, and TensorFlow sums the little that is left.
"""

from __future__ import annotations

import tensorflow as tf

EPSILON = 1e-5
# Compiling takes about 0.1 s a shape: not worth it for tensors that pass in a fraction of a millisecond.
_WORTH_COMPILING = 1 << 19
_MOST_SLICES = 16


def group_norm_relu(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, dtype: tf.DType, compiled: bool
) -> tf.Tensor:
    """(n, h, w, c) of any floating dtype -> the same shape in `dtype`; all arithmetic is float32.

    `compiled` allows XLA for the loops over pixels, where the shape is known and large enough to be worth it.
    """
    compiled = compiled and (x.shape.num_elements() or 0) >= _WORTH_COMPILING
    sums, squares = _compiled_sums(x) if compiled else _sums(x)
    scale, shift = _scale_and_shift(sums, squares, gamma, beta, groups, tf.shape(x)[1] * tf.shape(x)[2])
    return (_compiled_apply if compiled else _apply)(x, scale, shift, dtype)


def _sums(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums over the pixels of x and of its square, float32 (n, c) each."""
    x = tf.cast(x, tf.float32)
    return tf.reduce_sum(x, [1, 2]), tf.reduce_sum(tf.square(x), [1, 2])


def _compiled_sums(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    sums, squares = _sums_of_slices(x)
    return tf.reduce_sum(sums, 1), tf.reduce_sum(squares, 1)


@tf.function(autograph=False, jit_compile=True)
def _sums_of_slices(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    n, h, w, c = x.shape
    count = next(size for size in range(_MOST_SLICES, 0, -1) if h * w % size == 0)
    slices = tf.cast(tf.reshape(x, (n, count, h * w // count, c)), tf.float32)
    sums, squares = slices[:, 0], tf.square(slices[:, 0])
    for index in range(1, count):
        sums += slices[:, index]
        squares += tf.square(slices[:, index])
    return sums, squares


def _scale_and_shift(
    sums: tf.Tensor, squares: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, pixels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(n, 1, 1, c) each, such that GroupNorm(x) = x * scale + shift."""
    channels = sums.shape[-1]
    count = tf.cast(pixels * (channels // groups), tf.float32)

    def by_group(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.reshape(values, [-1, groups, channels // groups]), 2, keepdims=True) / count

    mean = by_group(sums)
    variance = by_group(squares) - tf.square(mean)
    inverse = tf.math.rsqrt(tf.maximum(variance, 0.0) + EPSILON)
    scale = inverse * tf.reshape(gamma, [groups, -1])
    shift = tf.reshape(beta, [groups, -1]) - scale * mean
    return tf.reshape(scale, [-1, 1, 1, channels]), tf.reshape(shift, [-1, 1, 1, channels])


def _apply(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.nn.relu(tf.cast(x, tf.float32) * scale + shift), dtype)


_compiled_apply = tf.function(_apply, autograph=False, jit_compile=True)
