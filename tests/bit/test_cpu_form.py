"""A vector has the same bits at every place in the batch: otherwise an image that is done again differs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bit import cpu_form, load, network, onednn
from bit.models import resolve
from bit.tensorflow import tf
from tests import helpers

OUTPUTS = ("embedding", "logits", "top_k")

pytestmark = pytest.mark.skipif(not onednn.IS_THERE, reason="TensorFlow has no oneDNN here")


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
            outputs = extractor(others)
            got = {name: values[place] for name, values in outputs.items()}
            first = first or got
            for name in first:
                np.testing.assert_array_equal(got[name], first[name], f"{name} at {place} of {count}")
            assert not np.array_equal(outputs["embedding"][place - 1], got["embedding"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
# Kernels take 4, 6, 8 or 16 rows at once. Only even counts: the tiny network, unlike the family, has norms of 8 groups, of
# which registers of 16 values take those of two images at once.
@pytest.mark.parametrize("count", [4, 8, 14, 32, 50])
def test_a_vector_is_the_same_at_every_place(count, precision):
    assert_same_at_every_place(loaded(count, precision))


def test_also_without_instructions_for_bfloat16(monkeypatch):
    native = loaded(8, "bfloat16")
    monkeypatch.setattr(cpu_form, "_has_bfloat16", lambda: False)
    without = loaded(8, "bfloat16")
    assert_same_at_every_place(without)
    exact = loaded(8)(pictures(8))
    for extractor in (native, without):
        outputs = extractor(pictures(8))
        for name in ("embedding", "logits"):
            values = outputs[name]
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


def test_importing_bit_turns_onednn_on_unless_the_user_has_decided():
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    program = "import os; from bit import cpu_form as form\n"
    program += "print(os.environ['TF_ENABLE_ONEDNN_OPTS'], form.convolutions_ignore_places())"

    def said(**more):
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=helpers.REPO, env=environment | more, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert said() == ["1", "True"]
    without = said(TF_ENABLE_ONEDNN_OPTS="0")
    assert without[0] == "0"
    if "avx512" not in Path("/proc/cpuinfo").read_text():
        assert without[1] == "False"


def test_sums_that_depend_on_the_place_are_told_of_once(monkeypatch, caplog):
    monkeypatch.setattr(cpu_form, "convolutions_ignore_places", lambda: False)
    cpu_form._warn.cache_clear()
    loaded(2)
    loaded(3)
    (said,) = [record for record in caplog.records if record.name == "bit.cpu_form"]
    assert "the last bits of a vector depend on its place in the batch" in said.message
    assert "TF_ENABLE_ONEDNN_OPTS" in said.message


@pytest.mark.parametrize("ulps", [0, 1])
def test_places_are_compared_to_the_bit(monkeypatch, ulps):
    conv2d = tf.nn.conv2d

    def other_last_row(*arguments):
        outputs = conv2d(*arguments).numpy().copy()
        outputs[-1].view(np.int32)[..., 0] += ulps
        return tf.constant(outputs)

    cpu_form.convolutions_ignore_places.cache_clear()
    monkeypatch.setattr(tf.nn, "conv2d", other_last_row)
    assert cpu_form.convolutions_ignore_places() is not bool(ulps)
    cpu_form.convolutions_ignore_places.cache_clear()
