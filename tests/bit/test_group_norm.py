"""bit.group_norm: one scale and shift per channel equals GroupNorm as defined, compiled or not."""

import numpy as np
import pytest
import tensorflow as tf

from bit import group_norm
from bit.group_norm import group_norm_relu


def by_definition(x, gamma, beta, groups):
    """Equations 1, 2, 6 and 7 of arXiv:1803.08494 in float64, then ReLU."""
    n, h, w, c = x.shape
    grouped = x.astype(np.float64).reshape(n, h * w, groups, c // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    deviation = np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    return np.maximum(((grouped - mean) / deviation).reshape(x.shape) * gamma + beta, 0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 56, 56, 96), 32), ((3, 13, 17, 800), 8), ((2, 37, 37, 192), 32), ((1, 5, 3, 16), 4)],
)
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_equals_the_definition(shape, groups, dtype, compiled):
    rng = np.random.default_rng(0)
    x = tf.cast(rng.normal(0.5, 2, shape), dtype)
    gamma, beta = (rng.uniform(0.5, 1.5, shape[-1]).astype(np.float32) for _ in range(2))
    got = group_norm_relu(x, tf.constant(gamma), tf.constant(beta), groups, tf.float32, compiled)
    expected = by_definition(tf.cast(x, tf.float32).numpy(), gamma, beta, groups)
    assert np.abs(got.numpy() - expected).max() < 1e-5 * expected.max()
    rounded = group_norm_relu(x, tf.constant(gamma), tf.constant(beta), groups, tf.bfloat16, compiled)
    assert rounded.dtype == tf.bfloat16
    assert np.abs(tf.cast(rounded, tf.float32).numpy() - expected).max() < 2**-8 * expected.max()


def test_only_large_tensors_of_known_shape_are_compiled(monkeypatch):
    shapes = []
    original = group_norm._sums_of_slices
    monkeypatch.setattr(group_norm, "_sums_of_slices", lambda x: shapes.append(tuple(x.shape)) or original(x))
    one = tf.ones(32)
    small, large = tf.ones((1, 8, 8, 32)), tf.ones((4, 64, 64, 32))
    for x in (small, large):
        group_norm_relu(x, one, one, 8, tf.float32, True)
        group_norm_relu(x, one, one, 8, tf.float32, False)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 32))])
    def of_any_size(x):
        return group_norm_relu(x, one, one, 8, tf.float32, True)

    of_any_size(large)
    assert shapes == [(4, 64, 64, 32)]
