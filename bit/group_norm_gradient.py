"""GroupNorm, then ReLU, with its gradient written out: for training, where TensorFlow's own keeps and passes over more tensors.

With the symbols of `bit.group_norm`, x_hat = (x - mu) / sigma and, for a loss L, d = dL/dy where y > 0, else 0:

    dL/dgamma = sum d x_hat,   dL/dbeta = sum d        over images and pixels
    dL/dx = (gamma d - mean(gamma d) - x_hat mean(gamma d x_hat)) / sigma        means over the values of a group

Sums over pixels are per image and channel, groups are formed of these. Both passes see x less its group's mean: products with
x itself would cancel where a mean is large. What is kept for the gradient is x, which the convolution before it made.
"""

from __future__ import annotations

from typing import Any

from bit.group_norm import EPSILON, WORTH_COMPILING
from bit.tensorflow import tf


def group_norm_relu(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    groups: int,
    dtype: tf.DType,
    compiled: bool,
    epsilon: float = EPSILON,
) -> tf.Tensor:
    """As `bit.group_norm.group_norm_relu`, of x with a known shape except for the number of images."""
    compiled = compiled and (x.shape.num_elements() or 0) >= WORTH_COMPILING
    passes = _COMPILED if compiled else _PLAIN
    channels, exact = x.shape[-1], gamma.dtype
    pixels = tf.shape(x)[1] * tf.shape(x)[2]
    count = tf.cast(pixels * (channels // groups), exact)

    def over_group(sums: tf.Tensor) -> tf.Tensor:
        """(n, c) sums -> the mean over the group's values, for each of its channels, (n, 1, 1, c)."""
        means = tf.reduce_sum(tf.reshape(sums, [-1, groups, channels // groups]), 2) / count
        return tf.reshape(tf.tile(means[:, :, None], [1, 1, channels // groups]), [-1, 1, 1, channels])

    @tf.custom_gradient
    def call(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor):
        mu = over_group(passes["sum"](x, exact))
        sigma = tf.sqrt(over_group(passes["squares"](x, mu)) + epsilon)
        scale = gamma / sigma
        y = passes["apply"](x, mu, scale, beta, dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            sums, products = passes["products"](upstream, x, mu, scale, beta)  # of d, of d (x - mu), (n, c)
            inverse = 1.0 / sigma
            mean_d = over_group(gamma * sums)
            mean_dx = over_group(gamma * products) * inverse  # of gamma d x_hat
            x_gradient = passes["gradient"](
                upstream, x, mu, scale, beta, mean_dx * inverse * inverse, mean_d * inverse
            )
            by_gamma = tf.reduce_sum(products * inverse[:, 0, 0], 0)
            return x_gradient, by_gamma, tf.reduce_sum(sums, 0)

        return y, gradient

    return call(x, gamma, beta)


def _sum(x: tf.Tensor, exact: tf.DType) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(x, exact), [1, 2])


def _squares(x: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(tf.cast(x, mu.dtype) - mu), [1, 2])


def _applied(x: tf.Tensor, mu: tf.Tensor, scale: tf.Tensor, beta: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.nn.relu((tf.cast(x, mu.dtype) - mu) * scale + beta), dtype)


def _through_relu(
    upstream: tf.Tensor, x: tf.Tensor, mu: tf.Tensor, scale: tf.Tensor, beta: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """d and x - mu."""
    centred = tf.cast(x, mu.dtype) - mu
    return tf.where(centred * scale + beta > 0, tf.cast(upstream, mu.dtype), 0), centred


def _products(
    upstream: tf.Tensor, x: tf.Tensor, mu: tf.Tensor, scale: tf.Tensor, beta: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    d, centred = _through_relu(upstream, x, mu, scale, beta)
    return tf.reduce_sum(d, [1, 2]), tf.reduce_sum(d * centred, [1, 2])


def _x_gradient(
    upstream: tf.Tensor,
    x: tf.Tensor,
    mu: tf.Tensor,
    scale: tf.Tensor,
    beta: tf.Tensor,
    slope: tf.Tensor,
    offset: tf.Tensor,
) -> tf.Tensor:
    d, centred = _through_relu(upstream, x, mu, scale, beta)
    return tf.cast(scale * d - centred * slope - offset, x.dtype)


# XLA makes one loop of what has no sum over pixels; its sums are slow on a CPU (`bit.group_norm`).
_PLAIN: dict[str, Any] = {
    "sum": _sum,
    "squares": _squares,
    "apply": _applied,
    "products": _products,
    "gradient": _x_gradient,
}
_COMPILED = _PLAIN | {
    name: tf.function(_PLAIN[name], autograph=False, jit_compile=True) for name in ("apply", "gradient")
}
