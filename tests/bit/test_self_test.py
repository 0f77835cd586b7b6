"""bit.self_test and its use in bit.load: recorded vectors, errors of reduced precisions, folding of TF-Hub modules."""

import gc
import logging
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bit import from_weights, network, self_test
from bit import load as loading
from bit.export import export, main
from bit.load import load
from bit.models import ARCHITECTURES, UnusableModel, resolve
from bit.weights import Untrained, shapes
from tests.checkpoints import worst

TINY = ARCHITECTURES["tiny"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "self-test"


def tiny(name="untrained/tiny", path="", **options):
    return load(resolve(name), path, image_size=options.pop("image_size", 32), batch_size=2, **options)


def pixels():
    return np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def test_the_picture_has_the_side_asked_for():
    full = self_test.picture(224)
    assert full.shape == (1, 224, 224, 3)
    assert full.dtype == np.float32
    assert full.min() >= 0
    assert 200 < full.max() <= 255
    np.testing.assert_array_equal(self_test.picture(448)[:, ::2, 1::2], full)
    np.testing.assert_array_equal(self_test.picture(112), full[:, 1::2, 1::2])


def test_the_first_load_records_and_later_ones_compare(cache):
    tiny()
    (record,) = cache.iterdir()
    before = record.read_bytes()
    tiny()
    assert [p.read_bytes() for p in cache.iterdir()] == [before]
    with np.load(record) as stored:
        vectors = {name: stored[name] for name in stored.files}
    vectors["embedding"][0, 0] += 0.01 * np.abs(vectors["embedding"]).max()
    np.savez(record, **vectors)
    with pytest.raises(self_test.SelfTestFailed, match=rf"off by 0\.0\d+ .* from {re.escape(str(record))}"):
        tiny()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_device_that_computes_wrongly_is_found(precision, monkeypatch):
    tiny()
    right = from_weights.build

    def wrong(*arguments, **options):
        loaded = right(*arguments, **options)

        def graph(pixels):
            return {name: value * 1.5 for name, value in loaded.graph(pixels).items()}

        return from_weights.Loaded(graph, loaded.classes, loaded.exact)

    monkeypatch.setattr(loading, "build", wrong)
    with pytest.raises(
        self_test.SelfTestFailed, match=f"in {precision} .* is off by 0.5 .*Likely causes: faulty memory or"
    ):
        tiny(precision=precision)


def test_a_vector_that_is_not_finite_fails():
    right = {"embedding": np.ones((1, 4), np.float32)}
    with pytest.raises(self_test.SelfTestFailed, match="off by nan"):
        self_test.compare({"embedding": np.full((1, 4), np.nan, np.float32)}, right, "bfloat16", "the record")


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_exceed_float16_are_told_to_use_bfloat16(value, monkeypatch):
    right = from_weights.build

    def overflowing(*arguments, **options):
        loaded = right(*arguments, **options)
        return from_weights.Loaded(
            lambda pixels: {"embedding": tf.fill((1, 256), value)}, loaded.classes, loaded.exact
        )

    monkeypatch.setattr(loading, "build", overflowing)
    monkeypatch.setattr(loading, "_prepare_device", lambda precision: None)  # which wants a GPU
    with pytest.raises(
        UnusableModel,
        match="exceed what float16 can hold, already for the bundled picture: use --precision=bfl",
    ):
        tiny(precision="float16")


def test_a_reduced_precision_tells_its_error(monkeypatch):
    assert not [name for name in tiny().identity if name.startswith("self_test/")]
    identity = tiny(precision="bfloat16").identity
    stated = float(identity["self_test/relative_l2"])
    exact = tiny()._function  # the batch has two places for pictures
    batch = np.repeat(self_test.picture(32), 2, 0)
    reduced = tiny(precision="bfloat16")(batch)["embedding"][:1]
    off = self_test.distance(reduced, exact(tf.constant(batch))["embedding"].numpy()[:1])
    assert stated == pytest.approx(off.relative_l2, rel=0.06)
    assert 1e-4 < stated < 5e-2
    assert float(identity["self_test/cosine"]) == pytest.approx(off.cosine, abs=1e-4)


def test_a_damaged_record_is_made_anew(cache, caplog):
    tiny()
    (record,) = cache.iterdir()
    before = record.read_bytes()
    record.write_bytes(before[:100])
    tiny()
    assert "is damaged" in caplog.text
    assert record.read_bytes() == before


def test_a_cache_that_cannot_be_written_costs_the_check_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert tiny()(pixels())["embedding"].shape == (2, 256)
    assert "the self-test cannot be recorded" in caplog.text


def test_outputs_are_recorded_as_they_are_asked_for(cache):
    name = "untrained/tiny/ilsvrc2012_classification"
    for outputs in (("embedding",), ("logits",), ("embedding", "logits")):
        tiny(name, outputs=outputs)
    (record,) = cache.iterdir()
    with np.load(record) as stored:
        assert {key: stored[key].shape for key in stored.files} == {
            "side": (),
            "precision": (),
            "embedding": (1, 256),
            "logits": (1, 1000),
        }


def test_an_export_carries_its_record(tmp_path, cache):
    path = str(tmp_path / "m")
    export(Untrained(TINY), path, side=32)
    tiny(path, path)
    assert not cache.exists()
    record = Path(path) / self_test.EXPORTED
    settings = {"side": np.int64(32), "precision": np.str_("float32")}
    np.savez(record, **settings, embedding=np.ones((1, 256), np.float32))
    with pytest.raises(self_test.SelfTestFailed, match=r"from \S+self_test.npz"):
        tiny(path, path)


def test_a_hub_module_of_the_family_is_folded(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path, weights = str(tmp_path / "m"), Untrained(TINY, 1000)
    export(weights, path)
    expected = tiny()(pixels())["embedding"]
    extractor = tiny(path, path)
    assert extractor.identity["route"] == "folded_saved_model"
    assert "its weights are standardized once" in caplog.text
    np.testing.assert_array_equal(extractor(pixels())["embedding"], expected)
    reduced = tiny(path, path, precision="bfloat16")
    np.testing.assert_array_equal(
        reduced(pixels())["embedding"], tiny(precision="bfloat16")(pixels())["embedding"]
    )
    assert float(reduced.identity["self_test/relative_l2"]) < 5e-2


def test_the_variables_of_a_folded_module_are_let_go(tmp_path, monkeypatch):
    path = str(tmp_path / "m")
    export(Untrained(TINY), path)
    kept = []
    original = tf.saved_model.load

    def watched(path):
        module = original(path)
        kept.extend(weakref.ref(variable) for variable in module.variables)
        return module

    monkeypatch.setattr(tf.saved_model, "load", watched)
    extractor = tiny(path, path)
    gc.collect()
    assert len(kept) == len(shapes(TINY))
    assert [variable for variable in kept if variable() is not None] == []
    assert extractor(pixels())["embedding"].shape == (2, 256)


def test_weights_that_give_no_numbers_are_refused(tmp_path, cache):
    arrays = {f"resnet/{name}": Untrained(TINY).array(name) for name in shapes(TINY)}
    arrays["resnet/group_norm/gamma"][3] = np.nan
    path = str(tmp_path / "nan.npz")
    np.savez(path, **arrays)
    with pytest.raises(UnusableModel, match="returns values that are not finite for the bundled picture"):
        tiny(path, path)
    assert not cache.exists()


def test_an_export_in_a_reduced_precision_is_held_to_its_own_record(tmp_path):
    path = str(tmp_path / "m")
    arguments = ["--model=untrained/tiny", f"--output={path}", "--optimized", "--precision=bfloat16"]
    assert main(arguments) == 0
    record = Path(path) / self_test.EXPORTED
    with np.load(record) as stored:
        assert str(stored["precision"]) == "bfloat16"
        assert int(stored["side"]) == 224
    tiny(path, path, image_size=224)


def test_a_classifier_module_gives_embedding_and_logits(tmp_path):
    name = "untrained/tiny/ilsvrc2012_classification"
    path = str(tmp_path / "m")
    assert main([f"--model={name}", f"--output={path}", "--head"]) == 0
    both = tiny(name, outputs=("embedding", "logits"))(pixels())
    exported = tiny(path, path, outputs=("embedding", "logits"))(pixels())
    for output, expected in both.items():
        np.testing.assert_array_equal(exported[output], expected)


class Lookalike(tf.Module):
    """Has the names and shapes of the family but does something else with them."""

    def __init__(self, change):
        super().__init__()
        source = Untrained(TINY)
        self.named = {
            name: tf.Variable(source.array(name), name=f"hub/resnet/{name}") for name in shapes(TINY)
        }
        self.variables_ = list(self.named.values())

        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)], autograph=False)
        def call(images):
            return change(self, images)

        self.__call__ = call


def saved(tmp_path, change):
    module = Lookalike(change)
    reusable = tf.train.Checkpoint()
    reusable.__call__ = module.__call__
    reusable.variables = module.variables_
    tf.saved_model.save(reusable, str(tmp_path / "m"))
    return str(tmp_path / "m")


def folded_by(self, images, epsilon=1e-10, scale=2.0):
    current = {}
    for name, value in self.named.items():
        if "standardized" in name:
            mean, variance = tf.nn.moments(value, [0, 1, 2])
            current[name] = (value - mean) / tf.sqrt(variance + epsilon)
        else:
            current[name] = tf.convert_to_tensor(value)
    return network.embed(images * scale - 1.0, current, TINY)


def test_another_prefix_of_the_names_is_folded_too(tmp_path):
    path = saved(tmp_path, folded_by)
    extractor = tiny(path, path)
    assert extractor.identity["route"] == "folded_saved_model"
    assert worst(extractor(pixels())["embedding"], tiny()(pixels())["embedding"]) < 1e-5


@pytest.mark.parametrize(
    ("change", "why", "width"),
    [
        (lambda self, x: folded_by(self, x, epsilon=1e-2), "gives another vector", 256),
        (lambda self, x: folded_by(self, x, scale=1.9), "gives another vector", 256),
        (lambda self, x: folded_by(self, x)[:, :100], "returns 100 values", 100),
    ],
    ids=["epsilon", "scale", "width"],
)
def test_a_lookalike_is_called_as_it_is(change, why, width, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = saved(tmp_path, change)
    if width != 256:  # not the embedding by its shape, so the request has to say so
        with pytest.raises(UnusableModel, match="has no output that is named embedding or logits"):
            tiny(path, path)
    named = {} if width == 256 else {"outputs_map": {"embedding": "output_0"}}
    extractor = tiny(path, path, **named)
    assert extractor.identity["route"] == "saved_model"
    assert "is called as it is: " in caplog.text
    assert why in caplog.text
    own = tf.saved_model.load(path)(tf.constant(pixels() / 255)).numpy()
    assert worst(extractor(pixels())["embedding"], own) < 1e-5
    with pytest.raises(
        UnusableModel, match=f"--precision=bfloat16 is not available for .*{why}.*use the .npz"
    ):
        tiny(path, path, precision="bfloat16", **named)


def test_float32_on_a_gpu_is_told_of_what_it_leaves_once(monkeypatch, caplog):
    # No GPU is needed: the load ends at a file that is missing.
    monkeypatch.setattr(loading, "_gpus", lambda: ["GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda gpu: True)
    loading._suggest_reduced_precisions.cache_clear()
    for precision in ("float32", "float32", "bfloat16"):
        with pytest.raises(UnusableModel, match="no file"):
            tiny("/missing.npz", "/missing.npz", precision=precision)
    assert caplog.text.count("float32 leaves most of a GPU idle") == 1
