"""Whether a GPU may round the factors of float32 products to TF32 (10 bits after the point): for one graph, not for a process.

TensorFlow's switch is process-wide and on by default. XLA reads it when it compiles a graph, every other operation when it
runs. So it is off in a process that loads models, and on only within `allowed`, which one thread holds at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bit.tensorflow import tf

_lock = threading.RLock()


@contextlib.contextmanager
def allowed(allow: bool = True) -> Iterator[None]:
    """Within it TF32 is allowed, or not, whatever was set before; other threads that ask wait."""
    config = tf.config.experimental
    with _lock:
        before = config.tensor_float_32_execution_enabled()
        config.enable_tensor_float_32_execution(allow)
        try:
            yield
        finally:
            config.enable_tensor_float_32_execution(before)


def compiled(function: Callable[..., Any], allow: bool, each_call: bool = False) -> Callable[..., Any]:
    """`function`, which takes and returns tensors, with TF32 allowed or not while its first call compiles it.

    `each_call`: XLA does not compile it, so that each call reads the switch, which is off between calls.
    """
    each_call = each_call and allow
    done = threading.Event()

    def call(*arguments: Any) -> Any:
        if done.is_set() and not each_call:
            return function(*arguments)
        with allowed(allow):
            out = function(*arguments)
            for value in tf.nest.flatten(out):
                value.numpy()  # waits until nothing is left to be compiled
        done.set()
        return out

    return call
