"""A vector has the same bits at every place in the batch: otherwise an image that is done again differs."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from bit import cpu_form, load, network
from bit.models import resolve
from bit.tensorflow import tf
from tests import helpers

OUTPUTS = ("embedding", "logits")


def loaded(batch_size, precision="float32", side=33):
    model = resolve("untrained/tiny/ilsvrc2012_classification")
    return load.load(model, "", image_size=side, batch_size=batch_size, precision=precision, outputs=OUTPUTS)


def pictures(count, side=33, seed=0):
    return np.random.RandomState(seed).uniform(0, 255, (count, side, side, 3)).astype(np.float32)


def assert_same_at_every_place(extractor):
    count, (one,) = extractor.batch_size, pictures(1, seed=1)
    first = None
    for place in sorted({0, 1, count // 2, count - 2, count - 1}):
        for others in (pictures(count), np.zeros_like(pictures(count))):
            others[place] = one
            got = {name: values[place] for name, values in extractor(others).items()}
            first = first or got
            for name in OUTPUTS:
                np.testing.assert_array_equal(got[name], first[name], f"{name} at {place} of {count}")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [5, 8, 13, 50])  # kernels take 4, 6, 8 or 16 rows at once
def test_a_vector_is_the_same_at_every_place(count, precision):
    assert_same_at_every_place(loaded(count, precision))


def test_also_without_instructions_for_bfloat16(monkeypatch):
    native = loaded(7, "bfloat16")
    monkeypatch.setattr(cpu_form, "_has_bfloat16", lambda: False)
    without = loaded(7, "bfloat16")
    assert_same_at_every_place(without)
    exact = loaded(7)(pictures(7))
    for extractor in (native, without):
        for name, values in extractor(pictures(7)).items():
            off = np.linalg.norm(values - exact[name]) / np.linalg.norm(exact[name])
            assert 1e-4 < off < 0.1, name
    assert cpu_form.form(tf.bfloat16).conv is not network.PLAIN.conv
    assert cpu_form.form(tf.float32).conv is network.PLAIN.conv


@pytest.mark.parametrize("rows", [1, 48, 49, 97])
def test_a_product_in_blocks_is_the_product(rows):
    draw = np.random.RandomState(0)
    x, kernel = draw.randint(-9, 10, (rows, 20)), draw.randint(-9, 10, (20, 3))
    got = cpu_form.product(tf.constant(x, tf.float32), tf.constant(kernel, tf.float32))
    np.testing.assert_array_equal(got.numpy(), x @ kernel)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is TensorFlow's on x86 only"
)
def test_importing_bit_turns_onednn_on_unless_the_user_has_decided():
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    program = "import os; from bit import cpu_form; print(os.environ['TF_ENABLE_ONEDNN_OPTS'], cpu_form.are_alike())"

    def said(**more):
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=helpers.REPO, env=environment | more, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert said() == ["1", "True"]
    assert said(TF_ENABLE_ONEDNN_OPTS="0")[0] == "0"


def test_sums_that_depend_on_the_place_are_told_of_once(monkeypatch, caplog):
    monkeypatch.setattr(cpu_form, "are_alike", lambda: False)
    cpu_form._warn.cache_clear()
    loaded(2)
    loaded(3)
    (said,) = [record for record in caplog.records if record.name == "bit.cpu_form"]
    assert "the last bits of a vector depend on its place in the batch" in said.message
    assert "TF_ENABLE_ONEDNN_OPTS" in said.message


def test_places_are_compared():
    cpu_form.are_alike.cache_clear()
    assert cpu_form.are_alike()
