"""GroupNorm, then ReLU, as one scale and shift per image and channel.

Wu & He 2018, Group Normalization, arXiv:1803.08494, for x_i, i = (i_N, i_C, i_H, i_W), and the m values of a set S_i:

    x_hat_i = (x_i - mu_i) / sigma_i                                                               (1)
    mu_i = 1/m sum_{k in S_i} x_k,   sigma_i = sqrt(1/m sum_{k in S_i} (x_k - mu_i)^2 + epsilon)   (2)
    y_i = gamma x_hat_i + beta, with gamma and beta per channel                                    (6)
    S_i = {k | k_N = i_N, floor(k_C / (C/G)) = floor(i_C / (C/G))}                                 (7)

BiT has G = 32 groups, and epsilon = 1e-5 in the authors' code. Here, in float32,

    y_i = x_i * gamma/sigma_i + (beta - mu_i gamma/sigma_i),   sigma_i = sqrt(max(E[x^2] - E[x]^2, 0) + epsilon)

so that one pass over the pixels sums x and x^2 per channel, a second one applies the result, and groups are formed on
(n, c) only. The difference loses digits that (2) keeps where a group's mean is large beside its deviation; the tests
compare with (2) in float64.

On a CPU, TensorFlow passes over the tensor once per operation, eight times in all; XLA makes two loops of them. XLA's own
reductions are slow there, so the compiled part adds up slices, and TensorFlow sums the few that remain.
"""

from __future__ import annotations

from bit.tensorflow import tf

EPSILON = 1e-5  # of equation 2
# Compiling takes about 0.1 s per shape: not worth it for tensors that take a fraction of a millisecond.
WORTH_COMPILING = 1 << 19  # elements
_SLICES_MAX = 16


def group_norm_relu(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    groups: int,
    dtype: tf.DType,
    compiled: bool,
    epsilon: float = EPSILON,
) -> tf.Tensor:
    """(n, h, w, c) of any floating dtype -> max(y, 0), the same shape in `dtype`; all arithmetic is in that of gamma and beta.

    gamma, beta: float32 (c,), or float64 where x is float64. `compiled` allows XLA for the loops over pixels, if the
    shape is known and large enough.
    """
    compiled = compiled and (x.shape.num_elements() or 0) >= WORTH_COMPILING
    sums, squares = _compiled_sums(x) if compiled else _sums(x, gamma.dtype)
    pixels = tf.shape(x)[1] * tf.shape(x)[2]
    scale, shift = _scale_and_shift(sums, squares, gamma, beta, groups, pixels, epsilon)
    return (_compiled_apply if compiled else _apply)(x, scale, shift, dtype)


def _sums(x: tf.Tensor, exact: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums of x and of its square over the pixels, (n, c) each, in the dtype `exact`."""
    x = tf.cast(x, exact)
    return tf.reduce_sum(x, [1, 2]), tf.reduce_sum(tf.square(x), [1, 2])


def _compiled_sums(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    sums, squares = _sums_of_slices(x)
    return tf.reduce_sum(sums, 1), tf.reduce_sum(squares, 1)


@tf.function(autograph=False, jit_compile=True)
def _sums_of_slices(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    n, h, w, c = x.shape
    count = next(size for size in range(_SLICES_MAX, 0, -1) if h * w % size == 0)
    slices = tf.cast(tf.reshape(x, (n, count, h * w // count, c)), tf.float32)
    sums, squares = slices[:, 0], tf.square(slices[:, 0])
    for index in range(1, count):
        sums += slices[:, index]
        squares += tf.square(slices[:, index])
    return sums, squares


def _scale_and_shift(
    sums: tf.Tensor,
    squares: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    groups: int,
    pixels: tf.Tensor,
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """scale = gamma/sigma and shift = beta - mu gamma/sigma, (n, 1, 1, c) each: y = x * scale + shift."""
    channels = sums.shape[-1]
    m = tf.cast(pixels * (channels // groups), gamma.dtype)

    def by_group(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.reshape(values, [-1, groups, channels // groups]), 2, keepdims=True) / m

    mu = by_group(sums)
    variance = by_group(squares) - tf.square(mu)
    inverse_sigma = tf.math.rsqrt(tf.maximum(variance, 0.0) + epsilon)
    scale = inverse_sigma * tf.reshape(gamma, [groups, -1])
    shift = tf.reshape(beta, [groups, -1]) - scale * mu
    return tf.reshape(scale, [-1, 1, 1, channels]), tf.reshape(shift, [-1, 1, 1, channels])


def _apply(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.nn.relu(tf.cast(x, scale.dtype) * scale + shift), dtype)


_compiled_apply = tf.function(_apply, autograph=False, jit_compile=True)
