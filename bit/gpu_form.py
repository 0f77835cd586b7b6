"""The network's convolutions and pooling in the forms that XLA makes the fastest programs of on a GPU.

Each is the same sum as in `network.PLAIN`, in another order. Measured on an H200 (`benchmarks/README.md`): a 1x1 convolution as
a matrix product takes the residual along in the same pass, a root over 12 channels suits tensor cores, and kernels by
output channel need no transposition in each call.
"""

from __future__ import annotations

import functools

from bit import network
from bit.tensorflow import tf


def _stored(kernel: tf.Tensor) -> tf.Tensor:
    return tf.transpose(kernel, (3, 0, 1, 2))


def _conv(x: tf.Tensor, stored: tf.Tensor, stride: int) -> tf.Tensor:
    kernel = tf.transpose(stored, (1, 2, 3, 0))  # of which XLA only makes another order of the same bytes
    side, _, channels, filters = kernel.shape
    if side == 1 and stride == 1:
        product = tf.matmul(tf.reshape(x, (-1, channels)), tf.reshape(kernel, (channels, filters)))
        return tf.reshape(
            product,
            tf.concat([tf.shape(x)[:3], [filters]], 0) if None in x.shape else (*x.shape[:3], filters),
        )
    if side == 7 and stride == 2 and x.shape[1] and x.shape[2] and not (x.shape[1] % 2 or x.shape[2] % 2):
        return _root(x, kernel)
    return network.PLAIN.conv(x, kernel, stride)


def _root(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The 7x7 convolution at stride 2 with padding 3, as 4x4 at stride 1 over blocks of 2x2 pixels. The sides are even."""
    _, height, width, channels = x.shape
    rows, columns = height // 2 + 3, width // 2 + 3
    x = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
    x = tf.transpose(tf.reshape(x, (-1, rows, 2, columns, 2, channels)), (0, 1, 3, 2, 4, 5))
    kernel = tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]])
    kernel = tf.transpose(tf.reshape(kernel, (4, 2, 4, 2, channels, -1)), (0, 2, 1, 3, 4, 5))
    kernel = tf.reshape(kernel, (4, 4, 4 * channels, -1))
    return tf.nn.conv2d(tf.reshape(x, (-1, rows, columns, 4 * channels)), kernel, 1, "VALID")


def _pool(x: tf.Tensor) -> tf.Tensor:
    height, width = x.shape[1], x.shape[2]
    if height is None or width is None:
        return network.PLAIN.pool(x)
    slices = [
        x[:, row : height - 2 + row : 2, column : width - 2 + column : 2]
        for row in range(3)
        for column in range(3)
    ]
    return functools.reduce(tf.maximum, slices)


GPU = network.Form(_stored, _conv, _pool)
