"""bit.export: a SavedModel that behaves like the TF-Hub module."""

import gc
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from bit.checkpoint import open_checkpoint
from bit.errors import UnusableModel
from bit.export import export, main, write_checkpoint
from bit.load import load
from bit.models import ARCHITECTURES, resolve
from bit.weights import Untrained, shapes
from tests.checkpoints import R50X1_ODD, R101X3, authors_features, worst

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


NAMES = ("tench", "café au lait", "鲤鱼, Cyprinus", "none of them")


def test_a_tuned_head_is_exported_with_its_names_and_image_size(tmp_path):
    weights = Untrained(ARCHITECTURES["tiny"], 4)
    folder = tmp_path / "m"
    export(weights, str(folder), head=True, side=48, classes=NAMES)
    assert (folder / "assets/classes.txt").read_text("utf-8") == "".join(f"{name}\n" for name in NAMES)
    assert (folder / "assets/preprocessing.json").read_text() == '{"image_size": 48}\n'
    module = tf.saved_model.load(str(folder))
    images = tf.constant(np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)), tf.float32)
    served = module.signatures["serving_default"](images=images)
    assert {name: value.shape for name, value in served.items()} == {"embedding": (2, 256), "logits": (2, 4)}
    np.testing.assert_array_equal(module(images), served["logits"])
    record = np.load(folder / "assets.extra/self_test.npz")
    assert (record["embedding"].shape, record["logits"].shape, int(record["side"])) == ((1, 256), (1, 4), 48)
    # TensorFlow itself keeps the files: they go along when it saves the model again.
    tf.saved_model.save(module, str(tmp_path / "again"))
    assert (tmp_path / "again/assets/classes.txt").read_bytes() == (
        folder / "assets/classes.txt"
    ).read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:3], "3 class names, but the head has 4 outputs"),
        (("a", "b", "", "d"), "'' is no class name"),
        (("a", "b", "c\nd", "e"), "has a line break"),
    ],
)
def test_names_that_are_not_the_heads_are_refused(names, message, tmp_path):
    for write in (
        lambda: export(Untrained(ARCHITECTURES["tiny"], 4), str(tmp_path / "m"), head=True, classes=names),
        lambda: write_checkpoint(Untrained(ARCHITECTURES["tiny"], 4), str(tmp_path / "m.npz"), names),
    ):
        with pytest.raises(UnusableModel, match=message):
            write()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_has_the_official_names_and_the_same_bytes_each_time(tmp_path):
    weights = Untrained(ARCHITECTURES["tiny"], 4)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_checkpoint(weights, str(tmp_path / folder / "m.npz"), NAMES, side=48)
    assert (tmp_path / "a/m.npz").read_bytes() == (tmp_path / "b/m.npz").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "classes.txt",
        "m.npz",
        "preprocessing.json",
    ]
    stored = np.load(tmp_path / "a/m.npz")
    assert stored["resnet/head/conv2d/kernel"].shape == (1, 1, 256, 4)
    for name in shapes(weights.architecture, 4):
        np.testing.assert_array_equal(stored[f"resnet/{name}"], weights.array(name))
    # What `bit.export` makes of it has the names, too.
    path = str(tmp_path / "m")
    assert main([f"--model={tmp_path / 'a/m.npz'}", f"--output={path}", "--head"]) == 0
    assert (tmp_path / "m/assets/classes.txt").read_text("utf-8").splitlines() == list(NAMES)
    assert resolve(path).image_size == resolve(str(tmp_path / "a/m.npz")).image_size == 48


def test_saved_model_cli_shows_and_runs_it(tiny_module, tmp_path):
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    tags = [f"--dir={tiny_module}", "--tag_set=serve", "--signature_def=serving_default"]
    shown = subprocess.run([*command, "show", *tags], capture_output=True, text=True, check=True).stdout
    assert "inputs['images'] tensor_info: dtype: DT_FLOAT shape: (-1, -1, -1, 3)" in " ".join(shown.split())
    run = [*command, "run", *tags, f"--inputs=images={tmp_path}/images.npy", f"--outdir={tmp_path}/out"]
    subprocess.run(run, capture_output=True, text=True, check=True)
    (written,) = (tmp_path / "out").glob("*.npy")
    np.testing.assert_allclose(
        np.load(written), hub.load(tiny_module)(tf.constant(images)).numpy(), rtol=1e-5
    )


def test_a_keras_layer_fine_tunes_it(tiny_module):
    layer = hub.KerasLayer(tiny_module, trainable=True)
    model = tf_keras.Sequential([tf_keras.Input((32, 32, 3)), layer, tf_keras.layers.Dense(3)])
    assert layer.losses == []
    images = np.random.default_rng(0).uniform(0, 1, (12, 32, 32, 3)).astype(np.float32)
    labels = np.arange(12) % 3
    kernel = next(
        w for w in layer.trainable_weights if w.name.endswith("root_block/standardized_conv2d/kernel:0")
    )
    before = kernel.numpy()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(0.003, momentum=0.9), loss)
    losses = model.fit(images, labels, batch_size=12, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.abs(kernel.numpy() - before).max() > 0
    assert len(layer.trainable_weights) == len(layer.weights)


def test_standardization_follows_the_weights(tiny_module):
    module = hub.load(tiny_module)
    images = tf.constant(np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)), tf.float32)
    before = module(images).numpy()
    kernel = next(v for v in module.trainable_variables if "block1/unit01/b/standardized" in v.name)
    kernel.assign(kernel * 3.0 + 1.0)  # what standardization takes out again
    assert worst(module(images).numpy(), before) < FLOAT32
    with tf.GradientTape() as tape:
        target = tf.reduce_sum(tf.square(module(images)))
    gradient = tape.gradient(target, kernel)
    # The gradient lies in what standardization leaves: no mean, nothing along the kernel itself.
    centred = kernel - tf.reduce_mean(kernel, [0, 1, 2])
    size = tf.norm(gradient) * tf.norm(centred)
    assert float(tf.norm(gradient)) > 0
    assert abs(float(tf.reduce_sum(gradient * centred)) / float(size)) < 1e-4
    kernel.assign_sub(gradient)
    assert worst(module(images).numpy(), before) > 1e-3


@pytest.mark.parametrize(("precision", "allowed"), [("float32", FLOAT32), ("bfloat16", 0.1)])
def test_an_optimized_export_holds_folded_weights(precision, allowed, tmp_path):
    path = str(tmp_path / "m")
    assert (
        main(["--model=untrained/tiny", f"--output={path}", "--optimized", f"--precision={precision}"]) == 0
    )
    module = hub.load(path)
    assert list(module.trainable_variables) == []
    dtypes = {v.name: v.dtype.name for v in module.variables if "block2" in v.name and "kernel" in v.name}
    assert set(dtypes.values()) == {precision}
    for value in (v for v in module.variables if "standardized" in v.name):
        flat = tf.cast(value, tf.float32).numpy().reshape(-1, value.shape[-1])
        np.testing.assert_allclose(flat.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(flat.var(0), 1, atol=6e-3)
    batch = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    expected = load(resolve("untrained/tiny"), "", image_size=32, batch_size=2)(batch)["embedding"]
    off = worst(module(tf.constant(batch / 255)).numpy(), expected)
    assert off < allowed
    assert precision == "float32" or off > 1e-4
    got = load(resolve(path), path, image_size=32, batch_size=2)(batch)["embedding"]
    assert worst(got, expected) < allowed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model=untrained/tin"],
        ["--model=untrained/tiny", "--head"],
        ["--model=untrained/tiny", "--precision=float16"],
    ],
)
def test_a_wrong_request_is_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*arguments, f"--output={tmp_path / 'm'}"])
    assert raised.value.code == 2
    assert not (tmp_path / "m").exists()
    assert "error: " in capsys.readouterr().err


def no_network(*_, **__):
    raise AssertionError("the network was asked")


def test_offline_takes_the_model_from_the_cache_and_asks_no_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setitem(ARCHITECTURES, "r101x3", ARCHITECTURES["tiny"])
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
    arguments = ["--model=bit/m-r101x3", "--head", f"--output={tmp_path / 'm'}"]
    with pytest.raises(AssertionError, match="the network was asked"):
        main(arguments)
    with pytest.raises(SystemExit) as raised:
        main([*arguments, "--offline"])
    assert raised.value.code == 2
    cached = tmp_path / "cache" / "storage.googleapis.com" / "bit_models" / "BiT-M-R101x3.npz"
    assert f"--offline asks no other; looked for:\n  {cached}\n" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(Untrained(ARCHITECTURES["tiny"], 10), str(cached))
    assert main([*arguments, "--offline"]) == 0
    assert hub.load(str(tmp_path / "m"))(tf.zeros((1, 32, 32, 3))).shape == (1, 10)


@pytest.mark.parametrize("command", ["bit.export", "bit.download", "pipeline.main", "pipeline.finetune"])
def test_every_command_that_loads_a_model_has_offline(command):
    done = subprocess.run([sys.executable, "-m", command, "--help"], capture_output=True, text=True)
    assert (done.returncode, "--model" in done.stdout, "--offline" in done.stdout) == (0, True, True)


def test_a_folder_in_use_is_refused(tiny_module, capsys):
    with pytest.raises(SystemExit):
        main(["--model=untrained/tiny", f"--output={tiny_module}", "--optimized"])
    assert "is not a new or empty local folder" in capsys.readouterr().err


def test_parity_through_an_exported_module(tmp_path):
    path = str(tmp_path / "m")
    export(open_checkpoint(R50X1_ODD.checkpoint(tmp_path)), path)
    extractor = load(resolve(path), path, image_size=R50X1_ODD.side, batch_size=R50X1_ODD.count)
    assert extractor.identity["route"] == "folded_saved_model"
    assert worst(extractor(R50X1_ODD.pictures())["embedding"], R50X1_ODD.expected()["embedding"]) < FLOAT32


@pytest.mark.soak
@pytest.mark.xdist_group("r101x3")
def test_parity_of_r101x3_through_an_exported_module_at_a_size_without_a_golden_file(
    r101x3_checkpoint, tmp_path
):
    path, small = str(tmp_path / "m"), replace(R101X3, side=96)
    export(open_checkpoint(r101x3_checkpoint), path)
    gc.collect()
    extractor = load(resolve(path), path, image_size=small.side, batch_size=small.count)
    assert extractor.identity["route"] == "folded_saved_model"
    got = extractor(small.pictures())["embedding"]
    del extractor
    gc.collect()
    assert worst(got, authors_features(small, r101x3_checkpoint, np.float64)) < 2e-5  # docs/models.md
