"""bit.tensorfloat32: the process-wide switch, for one graph at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from bit import load, tensorfloat32
from bit.models import resolve

enabled = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(autouse=True)
def off():
    before = enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def precision_of(function, x):
    """The precision_config that XLA would be given for the function's only product."""
    text = function.experimental_get_compiler_ir(x)(stage="stablehlo")
    return {name for name in ("HIGHEST", "DEFAULT") if f"precision {name}" in text or f"[{name}" in text}


def test_it_holds_for_the_block_and_may_be_nested():
    with tensorfloat32.allowed():
        assert enabled()
        with tensorfloat32.allowed(False):
            assert not enabled()
        assert enabled()
    assert not enabled()


def test_xla_reads_it_while_it_compiles():
    @tf.function(jit_compile=True)
    def product(x):
        return tf.matmul(x, x)

    x = tf.ones((4, 4))
    assert precision_of(product, x) == {"HIGHEST"}
    with tensorfloat32.allowed():
        assert "HIGHEST" not in precision_of(product, x)


@pytest.mark.parametrize(("allow", "each_call"), [(True, False), (False, False), (True, True)])
def test_a_function_has_it_in_its_first_call_or_in_each(allow, each_call):
    seen = []

    def function(x):
        seen.append(enabled())
        return {"y": x}

    call = tensorfloat32.compiled(function, allow, each_call)
    for _ in range(3):
        call(tf.ones(1))
    assert seen == [allow, allow and each_call, allow and each_call]


def test_a_first_call_that_fails_is_none():
    seen = []

    def function(x):
        seen.append(enabled())
        if len(seen) == 1:
            raise ValueError
        return x

    call = tensorfloat32.compiled(function, True)
    with pytest.raises(ValueError):  # noqa: PT011
        call(tf.ones(1))
    call(tf.ones(1)), call(tf.ones(1))
    assert seen == [True, True, False]
    assert not enabled()


def test_two_models_in_one_process_compile_one_after_the_other():
    start, at_once, most = threading.Barrier(2), [], []

    def function(allow):
        def run(x):
            at_once.append(allow)
            most.append((len(at_once), enabled() == allow))
            at_once.remove(allow)
            return x

        return tensorfloat32.compiled(run, allow)

    def work(call):
        start.wait()
        call(tf.ones(1))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [function(True), function(False)]))
    assert most == [(1, True), (1, True)]


def test_a_loaded_model_leaves_it_off():
    for precision in ("float32", "bfloat16"):
        extractor = load.load(resolve("untrained/tiny"), "", image_size=32, batch_size=1, precision=precision)
        extractor(np.zeros((1, 32, 32, 3), np.float32))
        assert not enabled()
