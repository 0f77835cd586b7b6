"""The forms for a GPU compute what the plain network computes; on a CPU, where their sums can be compared."""

import numpy as np
import pytest
import tensorflow as tf

from bit import network
from bit.gpu_form import GPU
from bit.models import ARCHITECTURES
from bit.weights import STANDARDIZED, Untrained, folded


@pytest.mark.parametrize("side", [64, 97, 98])
@pytest.mark.parametrize("known", [True, False])
def test_the_network_is_the_same(side, known):
    member = ARCHITECTURES["tiny"]
    arrays = dict(folded(Untrained(member), False))
    images = np.random.default_rng(side).uniform(-1, 1, (3, side, side, 3)).astype(np.float32)

    def embed(form):
        weights = {
            name: network.prepared(tf.constant(value), name, tf.float32, form)
            for name, value in arrays.items()
        }
        spec = tf.TensorSpec(images.shape if known else (None, None, None, 3), tf.float32)
        function = tf.function(lambda x: network.embed(x, weights, member, form=form), input_signature=[spec])
        return function(images).numpy()

    plain, gpu = embed(network.PLAIN), embed(GPU)
    assert np.abs(plain).max() > 0.1
    np.testing.assert_allclose(gpu, plain, rtol=0, atol=2e-5 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("side", "cin", "cout", "stride", "size"),
    [(1, 5, 4, 1, 9), (1, 5, 4, 2, 9), (3, 5, 4, 1, 9), (3, 5, 4, 2, 9), (7, 3, 4, 2, 12), (7, 3, 4, 2, 13)],
)
def test_convolves_as_defined(side, cin, cout, stride, size):
    draw = np.random.default_rng(0)
    x, kernel = draw.standard_normal((2, size, size + 2, cin)), draw.standard_normal((side, side, cin, cout))
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]
    got = GPU.conv(tf.constant(x), GPU.stored(tf.constant(kernel)), stride)
    np.testing.assert_allclose(got, np.einsum("nhwcij,ijco->nhwo", windows, kernel), rtol=0, atol=1e-10)


def test_pools_as_the_plain_network_does():
    for size in ((10, 10), (11, 10), (9, 12)):
        x = tf.constant(np.random.default_rng(0).standard_normal((2, *size, 5)).astype(np.float32))
        np.testing.assert_array_equal(GPU.pool(x), network.PLAIN.pool(x))


def test_kernels_are_stored_by_output_channel():
    kernel = tf.constant(np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3))
    stored = network.prepared(kernel, f"root_block/{STANDARDIZED}", tf.float32, GPU)
    assert stored.shape == (3, 2, 2, 2)
    np.testing.assert_array_equal(stored[1], kernel[..., 1])
    gamma = tf.constant([1.0, 2.0])
    assert network.prepared(gamma, "group_norm/gamma", tf.float16, GPU) is not None
    np.testing.assert_array_equal(network.prepared(gamma, "group_norm/gamma", tf.float16, GPU), gamma)


def test_a_1x1_convolution_is_a_matrix_product_and_the_root_is_over_blocks():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.zeros((2, 8, 8, 12))
        GPU.conv(x, tf.zeros((5, 1, 1, 12)), 1)
        GPU.conv(tf.zeros((2, 8, 8, 3)), tf.zeros((6, 7, 7, 3)), 2)
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("MatMul") == 1
    (convolution,) = (operation for operation in graph.get_operations() if operation.type == "Conv2D")
    assert convolution.inputs[1].shape == (4, 4, 12, 6)
