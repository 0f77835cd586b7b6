"""Tuned models: heads of any number of classes, their names, and SavedModels whose outputs must be named."""

import functools
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from bit import load as loading
from bit import self_test, tuned
from bit.export import export, write_checkpoint
from bit.export import main as export_main
from bit.load import load
from bit.models import ARCHITECTURES, UnusableModel, resolve
from bit.outputs import parse_map
from bit.weights import Arrays, Untrained
from tests.checkpoints import worst

TINY = ARCHITECTURES["tiny"]
NAMES = ("tench", "café au lait", "鲤鱼", "none of them")
ALL = ("embedding", "logits", "top_k")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/self-test"


def weights(classes):
    """Seeded weights whose head has a bias, so that a bias that is lost shows."""
    source = Untrained(TINY, classes)

    def read(name):
        value = source.array(name)
        return np.linspace(-1, 1, classes, dtype=np.float32) if name.endswith("bias") else value

    return Arrays(TINY, classes, read)


def pixels(side=32, count=3):
    return np.random.default_rng(5).uniform(0, 255, (count, side, side, 3)).astype(np.float32)


def run(path, outputs=ALL, side=32, **options):
    extractor = load(resolve(str(path)), str(path), image_size=side, batch_size=3, outputs=outputs, **options)
    return extractor, extractor(pixels(side))


def stored(kind, folder, classes, names, side=32):
    """Such a model as a SavedModel's folder or an .npz; its path."""
    if kind == "npz":
        folder.mkdir()
        write_checkpoint(weights(classes), str(folder / "model.npz"), names, side)
        return folder / "model.npz"
    shutil.copytree(exported(classes, names, side).name, folder)
    return folder


@functools.cache
def exported(classes, names, side):
    folder = tempfile.TemporaryDirectory()
    export(weights(classes), folder.name, head=True, side=side, classes=names)
    return folder


@pytest.mark.parametrize("kind", ["saved_model", "npz"])
@pytest.mark.parametrize("names", [NAMES, ("yes", "no"), tuple(f"class {k}" for k in range(1000))], ids=len)
def test_a_tuned_head_gives_all_outputs_with_its_names(kind, names, tmp_path):
    path = stored(kind, tmp_path / "m", len(names), names)
    k = min(len(names), 3)
    extractor, got = run(path, top_k=k)
    assert extractor.identity["route"] == {"npz": "npz", "saved_model": "folded_saved_model"}[kind]
    assert dict(extractor.outputs) == {
        "embedding": 256,
        "logits": len(names),
        "top_k/class": k,
        "top_k/probability": k,
        "top_k/name": k,
    }
    expected = load(resolve("untrained/tiny"), "", image_size=32, batch_size=3)(pixels())["embedding"]
    np.testing.assert_array_equal(got["embedding"], expected)
    kernel, bias = (weights(len(names)).array(f"head/conv2d/{name}") for name in ("kernel", "bias"))
    logits = expected.astype(np.float64) @ kernel[0, 0] + bias
    np.testing.assert_allclose(got["logits"], logits, atol=1e-5)
    best = np.argsort(-logits, 1)[:, :k]
    np.testing.assert_array_equal(got["top_k/class"], best)
    assert [[name.decode() for name in row] for row in got["top_k/name"]] == [
        [names[c] for c in row] for row in best
    ]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(got["top_k/probability"], np.take_along_axis(softmax, best, 1), rtol=1e-4)


@pytest.mark.parametrize(("precision", "l2", "most"), [("bfloat16", 5e-2, 0.1), ("float16", 5e-3, 2e-3)])
@pytest.mark.parametrize("kind", ["saved_model", "npz"])
def test_a_tuned_head_runs_in_16_bits_at_its_own_image_size(kind, precision, l2, most, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_prepare_device", lambda _: None)  # which wants a GPU for float16
    path = stored(kind, tmp_path / "m", 4, NAMES, side=48)
    assert resolve(str(path)).image_size == 48
    _, exact = run(path, side=48, top_k=4)
    extractor, got = run(path, side=48, top_k=4, precision=precision)
    assert float(extractor.identity["self_test/relative_l2"]) < l2
    assert 0 < np.abs(got["logits"] - exact["logits"]).max() < most
    assert got["top_k/name"].shape == (3, 4)


def test_an_export_is_held_to_its_record_of_each_output(tmp_path, cache):
    path = stored("saved_model", tmp_path / "m", 4, NAMES)
    run(path, top_k=4)
    assert not cache.exists()  # the export's own record sufficed
    record = path / self_test.EXPORTED
    with np.load(record) as old:
        values = dict(old)
    values["logits"] = values["logits"] * 1.01
    np.savez(record, **values)
    with pytest.raises(self_test.SelfTestFailed, match=r"from \S+self_test.npz"):
        run(path, top_k=4)


def test_an_image_size_that_is_not_the_models_is_said(tmp_path, caplog):
    path = stored("saved_model", tmp_path / "m", 4, NAMES, side=48)
    run(path, side=32, top_k=4)
    assert "was tuned on images of 48 pixels and runs on 32: --image_size=48 fits it" in caplog.text
    caplog.clear()
    run(path, side=48, top_k=4)
    assert "was tuned" not in caplog.text


@pytest.mark.parametrize("kind", ["saved_model", "npz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\n", "3 class names, but the head has 4 outputs"),
        (b"a\n\nc\nd\n", "line 2 is empty"),
        (b"a\nb\nc\n\xff\n", "is not UTF-8"),
    ],
)
def test_names_that_cannot_be_the_heads_are_refused_by_file(kind, content, message, tmp_path):
    path = stored(kind, tmp_path / "m", 4, NAMES)
    file = tuned.place(str(path), kind, tuned.CLASSES)
    with open(file, "wb") as stream:
        stream.write(content)
    with pytest.raises(UnusableModel, match=rf"classes.txt.*{message}"):
        run(path, top_k=4)
    _, got = run(path, outputs=("logits",))  # which needs no names
    assert got["logits"].shape == (3, 4)


@pytest.mark.parametrize(
    "content",
    [
        *("480", "{}", '{"image_size": "480"}', '{"image_size": 0}', "{", "[]"),
        '{"image_size": 48, "exif_orientation": "turn"}',
        '{"image_size": 48, "exif_orientation": ["apply"]}',
    ],
)
def test_a_damaged_preprocessing_is_refused_by_file(content, tmp_path):
    path = stored("saved_model", tmp_path / "m", 4, NAMES)
    (path / "assets/preprocessing.json").write_text(content)
    with pytest.raises(UnusableModel, match=r"assets/preprocessing.json is not like"):
        resolve(str(path))


@pytest.mark.parametrize("orientation", tuned.ORIENTATIONS)
def test_the_orientation_of_pictures_is_stored_with_the_model(orientation, tmp_path):
    write_checkpoint(weights(4), str(tmp_path / "model.npz"), NAMES, 48, orientation)
    model = resolve(str(tmp_path / "model.npz"))
    assert (model.image_size, model.exif_orientation) == (48, orientation)
    export_main([f"--model={tmp_path}/model.npz", "--head", f"--output={tmp_path}/saved"])
    assert tuned.read_preprocessing(str(tmp_path / "saved"), "saved_model") == (48, orientation)


def test_class_names_may_have_windows_line_ends_and_a_byte_order_mark():
    assert tuned.parse_names(b"\xef\xbb\xbfa\r\nb c\r\nd", "x") == ("a", "b c", "d")


def test_an_official_name_keeps_its_own_classes(tmp_path):
    """A classes.txt that lies beside an official checkpoint is of something else."""
    write_checkpoint(Untrained(ARCHITECTURES["r50x1"], 1000), str(tmp_path / "BiT-S-R50x1.npz"))
    tuned.write(str(tmp_path), NAMES, tuned.Preprocessing(48))
    assert resolve(str(tmp_path / "BiT-S-R50x1.npz")).image_size == 224
    _, got = run(tmp_path / "BiT-S-R50x1.npz", outputs=("top_k",))
    assert "top_k/synset" in got


class Elsewhere(tf.Module):
    """A classifier that is none of the family: what it returns, by the names given."""

    def __init__(self, **widths):
        super().__init__()
        self.scale = tf.Variable(2.0)
        self.widths = widths

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    def serve(self, images):
        mean = tf.reduce_mean(images, [1, 2]) * self.scale
        return {name: tf.tile(mean, [1, width // 3]) + float(width) for name, width in self.widths.items()}


def elsewhere(folder, **widths):
    module = Elsewhere(**widths)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


@pytest.mark.parametrize("widths", [{"dense_1": 3}, {"output_0": 3}, {"probabilities": 3, "boxes": 6}])
def test_an_output_of_another_name_is_refused_with_the_remedy(widths, tmp_path):
    path = elsewhere(tmp_path / "m", **widths)
    first = next(iter(widths))
    for wanted in (("embedding",), ("logits",), ("top_k",)):
        with pytest.raises(UnusableModel) as raised:
            run(path, outputs=wanted)
        text = str(raised.value)
        assert text.startswith(f"{path} has no output that is named embedding or logits. It has:")
        assert f"{first} float32 (None, {widths[first]})" in text
        assert "--outputs_map=logits=" in text
    _, got = run(path, outputs=("logits",), outputs_map={"logits": first})
    expected = np.tile(pixels().mean((1, 2)) / 255 * 2, (1, widths[first] // 3)) + widths[first]
    np.testing.assert_allclose(got["logits"], expected, rtol=1e-5)
    _, got = run(path, outputs=("top_k",), outputs_map={"logits": first}, top_k=2)
    np.testing.assert_array_equal(got["top_k/class"], np.argsort(-expected, 1)[:, :2])


def test_known_names_need_no_map_and_a_map_takes_precedence(tmp_path):
    path = elsewhere(tmp_path / "m", embedding=6, logits=3, other=9)
    extractor, got = run(path, outputs=("embedding", "logits"))
    assert (extractor.identity["route"], got["embedding"].shape, got["logits"].shape) == (
        "saved_model",
        (3, 6),
        (3, 3),
    )
    _, got = run(path, outputs=("embedding", "logits"), outputs_map={"logits": "other"})
    assert (got["embedding"].shape, got["logits"].shape) == ((3, 6), (3, 9))
    # What is mapped to one of ours is not also the other one.
    with pytest.raises(UnusableModel, match="provides logits only, not embedding"):
        run(path, outputs=("embedding",), outputs_map={"logits": "embedding"})


def test_an_output_that_is_not_there_or_no_vector_is_refused(tmp_path):
    path = elsewhere(tmp_path / "m", dense_1=3)
    with pytest.raises(UnusableModel) as raised:
        run(path, outputs=("logits",), outputs_map={"logits": "dense_2"})
    assert "--outputs_map=logits=dense_2: " in str(raised.value)
    assert "dense_1 float32 (None, 3)" in str(raised.value)

    maps = tf.Module()
    maps.serve = tf.function(
        lambda images: {"embedding": images, "pooled": tf.reduce_mean(images, [1, 2])},
        [tf.TensorSpec((None, None, None, 3), tf.float32)],
    )
    tf.saved_model.save(maps, str(tmp_path / "maps"), signatures=maps.serve)
    with pytest.raises(UnusableModel, match="has no output that is named embedding or logits"):
        run(tmp_path / "maps", outputs=("embedding",))
    _, got = run(tmp_path / "maps", outputs=("embedding",), outputs_map={"embedding": "pooled"})
    assert got["embedding"].shape == (3, 3)


@pytest.mark.parametrize(
    "pairs", [["logits"], ["logits="], ["top_k=x"], ["classes=x"], ["logits=a", "logits=b"], ["=x"]]
)
def test_a_map_that_is_none_is_refused(pairs):
    with pytest.raises(UnusableModel, match=r"--outputs_map=.*: give embedding=NAME or logits=NAME"):
        parse_map(pairs, resolve("/models/m"))


@pytest.mark.parametrize("name", ["bit/m-r101x3", "x.npz", "https://tfhub.dev/google/bit/m-r101x3/1"])
def test_a_map_is_refused_where_the_outputs_are_known(name):
    with pytest.raises(UnusableModel, match="--outputs_map is for SavedModels from elsewhere"):
        parse_map(["logits=dense"], resolve(name))


def tuned_with_keras(tmp_path, activation=None):
    """What others do: the module in a hub.KerasLayer, a dense layer behind it. Its weights are seeded, as if trained."""
    export(Untrained(TINY), str(tmp_path / "hub"))
    layer = hub.KerasLayer(str(tmp_path / "hub"), trainable=True)
    kernel, bias = tf_keras.initializers.GlorotUniform(seed=1), tf_keras.initializers.RandomNormal(seed=2)
    head = tf_keras.layers.Dense(3, activation, True, kernel, bias, name="dense_1")
    return tf_keras.Sequential([tf_keras.Input((None, None, 3)), layer, head])


@pytest.mark.parametrize("form", ["save", "export"])
def test_a_dense_head_that_others_trained_is_folded(form, tmp_path):
    model = tuned_with_keras(tmp_path)
    path = tmp_path / "m"
    getattr(model, form)(str(path))
    (path / "assets").mkdir(exist_ok=True)
    tuned.write(str(path / "assets"), ("a", "b", "c"), tuned.Preprocessing(32))
    extractor, got = run(path, top_k=2)
    assert extractor.identity["route"] == "folded_saved_model"
    assert worst(got["logits"], model(pixels() / 255).numpy()) < 1e-5
    assert got["embedding"].shape == (3, 256)
    assert got["top_k/name"][0, 0] == (b"a", b"b", b"c")[got["logits"][0].argmax()]
    reduced, _ = run(path, top_k=2, precision="bfloat16")
    assert float(reduced.identity["self_test/relative_l2"]) < 5e-2


def test_a_dense_head_that_returns_probabilities_is_not_taken_for_logits(tmp_path):
    tuned_with_keras(tmp_path, "softmax").save(str(tmp_path / "m"))
    with pytest.raises(UnusableModel, match=r"--outputs_map=logits=dense_1"):
        run(tmp_path / "m", outputs=("logits",))


@pytest.mark.parametrize("name", ["my.keras", "runs/MY.KERAS", "weights.h5", "gs://bucket/m.h5", "m.hdf5"])
def test_a_keras_file_is_refused_with_the_remedy(name):
    with pytest.raises(UnusableModel) as raised:
        resolve(name)
    text = str(raised.value)
    assert text.startswith(f"{name} is a Keras file")
    assert f"load_model('{name}').export('" in text
    assert "--outputs_map=logits=output_0" in text


def test_the_remedy_for_a_keras_file_works(tmp_path, monkeypatch):
    import subprocess
    import sys

    import keras

    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, outputs)
    model.save(str(tmp_path / "my.keras"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableModel) as raised:
        resolve("my.keras")
    command, last = (line.strip() for line in str(raised.value).splitlines()[1:])
    program = command.removeprefix('python -c "').removesuffix('"')
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert "--model=my --outputs_map=logits=output_0" in last
    _, got = run("my", outputs=("logits",), outputs_map={"logits": "output_0"})
    np.testing.assert_allclose(got["logits"], model(pixels() / 255).numpy(), rtol=1e-5, atol=1e-6)
