"""bit.export: a SavedModel that behaves like the TF-Hub module."""

import gc

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub

from bit.export import export, main
from bit.load import load
from bit.models import ARCHITECTURES, resolve
from bit.weights import Untrained, open_checkpoint
from tests.checkpoints import R101X3, worst

FLOAT32 = 1e-5


@pytest.fixture(scope="module")
def tiny_module(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("export") / "tiny")
    assert main(["--model=untrained/tiny", f"--output={path}"]) == 0
    return path


def test_takes_any_size_and_agrees_with_the_network(tiny_module):
    module = hub.load(tiny_module)
    for side in (32, 45):
        batch = np.random.default_rng(side).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
        expected = load(resolve("untrained/tiny"), "", image_size=side, batch_size=2)(batch)["embedding"]
        assert worst(module(tf.constant(batch / 255)).numpy(), expected) < FLOAT32
        got = load(resolve(tiny_module), tiny_module, image_size=side, batch_size=2)(batch)["embedding"]
        assert worst(got, expected) < FLOAT32


def test_has_the_interface_of_a_reusable_saved_model(tiny_module):
    module = hub.load(tiny_module)
    names = {variable.name for variable in module.variables}
    assert "resnet/block1/unit01/a/proj/standardized_conv2d/kernel:0" in names
    assert len(module.trainable_variables) == len(module.variables) == len(names)
    assert list(module.regularization_losses) == []
    signature = module.signatures["serving_default"]
    assert [s.shape.as_list() for s in signature.structured_input_signature[1].values()] == [
        [None, None, None, 3]
    ]


def test_exports_logits_with_the_head(tmp_path):
    weights = Untrained(ARCHITECTURES["tiny"], 1000)
    export(weights, str(tmp_path / "m"), head=True)
    batch = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    name = "untrained/tiny/ilsvrc2012_classification"
    extractor = load(resolve(name), "", image_size=32, batch_size=2, outputs=("logits",))
    got = hub.load(str(tmp_path / "m"))(tf.constant(batch / 255)).numpy()
    assert got.shape == (2, 1000)
    assert worst(got, extractor(batch)["logits"]) < FLOAT32


@pytest.mark.parametrize("arguments", [["--model=untrained/tin"], ["--model=untrained/tiny", "--head"]])
def test_a_wrong_request_is_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*arguments, f"--output={tmp_path / 'm'}"])
    assert raised.value.code == 2
    assert not (tmp_path / "m").exists()
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("r101x3")
def test_parity_of_r101x3_through_an_exported_module(r101x3_checkpoint, tmp_path):
    path = str(tmp_path / "m")
    export(open_checkpoint(r101x3_checkpoint), path)
    gc.collect()
    extractor = load(resolve(path), path, image_size=R101X3.side, batch_size=R101X3.count)
    assert worst(extractor(R101X3.pictures())["embedding"], R101X3.expected()["embedding"]) < FLOAT32
