"""The network's form on a CPU: with oneDNN, a vector does not depend on its place in the batch, to the bit.

oneDNN's convolutions sum alike for every image. Eigen's, which TensorFlow takes where oneDNN is off or has no bfloat16, do
not, nor do matrix products of either: they sum the last rows in another order. Exponentials of the last few values, which do not
fill a vector register, differ from those of the others.
"""

from __future__ import annotations

import functools
import logging

import numpy as np

from bit import network
from bit.tensorflow import tf

log = logging.getLogger(__name__)

# A multiple of the 6, 8, 12 or 16 rows or values that kernels take at once, so that none is left over.
_ROWS = 48


def padded(x: tf.Tensor) -> tf.Tensor:
    """(n, c), n known, with rows of zeros behind it up to a multiple of 48."""
    return tf.pad(x, [[0, -x.shape[0] % _ROWS], [0, 0]])


def product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """(n, c) times (c, d), n known: in blocks of 48 rows."""
    whole = padded(x)
    parts = [tf.matmul(part, kernel) for part in tf.split(whole, whole.shape[0] // _ROWS)]
    return tf.concat(parts, 0)[: x.shape[0]]


def _conv(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    return tf.cast(network.PLAIN.conv(tf.cast(x, tf.float32), tf.cast(kernel, tf.float32), stride), x.dtype)


CPU = network.PLAIN._replace(product=product)
# Between roundings to bfloat16 all is float32: no slower than Eigen's bfloat16, where the processor has no instructions for it.
_WITHOUT_BFLOAT16 = CPU._replace(conv=_conv)


def form(compute: tf.DType) -> network.Form:
    """The form of a network whose convolutions run in `compute` on this machine's CPU."""
    if not convolutions_ignore_places():
        _warn()
    return _WITHOUT_BFLOAT16 if compute == tf.bfloat16 and not _has_bfloat16() else CPU


@functools.cache
def convolutions_ignore_places() -> bool:
    """Whether a float32 convolution gives the same bits for an image wherever it is in the batch: tried on a few."""
    draw = np.random.RandomState(0)
    for count in (5, 7, 13):
        images = np.repeat(draw.uniform(-1, 1, (1, 1, 1, 64)).astype(np.float32), count, 0)
        kernel = draw.uniform(-1, 1, (1, 1, 64, 64)).astype(np.float32)
        with tf.device("/CPU:0"):
            outputs = tf.nn.conv2d(images, kernel, 1, "VALID").numpy()
        if (outputs != outputs[:1]).any():
            return False
    return True


@functools.cache
def _warn() -> None:
    log.warning(
        "TensorFlow runs without oneDNN here, so the last bits of a vector depend on its place in the batch: an image that is "
        "done again, as by --retry_failures, may differ there from what an undisturbed run gives. On x86, and on "
        "ARM with Linux, leave TF_ENABLE_ONEDNN_OPTS unset, and import this package before TensorFlow"
    )


def _has_bfloat16() -> bool:
    """Whether oneDNN convolves in bfloat16 here: it needs AVX-512."""
    try:
        from tensorflow.python.util import _pywrap_util_port as port

        return bool(port.IsMklEnabled() and port.IsBF16SupportedByOneDNNOnThisCPU())
    except (ImportError, AttributeError):  # it is no public interface
        return False
