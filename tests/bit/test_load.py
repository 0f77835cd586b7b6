"""bit.load: parity with the authors' network, every route, every refusal."""

import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from bit.check import check
from bit.load import load
from bit.models import UnusableModel, resolve
from tests import checkpoints
from tests.checkpoints import R50X1, R50X1_ODD, R101X1, R101X3, authors_features, relative_l2, worst

# What float32 promises (docs/models.md): of the largest value, and of the rounding of the authors' own code in float32.
FLOAT32, TIMES_THE_AUTHORS = 2e-5, 1.5


def tiny(batch_size=4, image_size=32, **options):
    return load(resolve("untrained/tiny"), "", image_size=image_size, batch_size=batch_size, **options)


def pixels(count, side=32, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, side, side, 3)).astype(np.float32)


def run(case, path, **options):
    extractor = load(resolve(path), path, image_size=case.side, batch_size=case.count, **options)
    return extractor, extractor(case.pictures())


def assert_kept(got, expected, case, path):
    """The promise for the features of float32."""
    off = worst(got, expected)
    assert off < FLOAT32
    assert off < TIMES_THE_AUTHORS * worst(authors_features(case, path, np.float32), expected)


@pytest.mark.parametrize("case", [R50X1, R50X1_ODD, R101X1], ids=lambda case: case.file)
def test_parity_with_the_authors_network(case, tmp_path):
    path, expected = case.checkpoint(tmp_path), case.expected()
    extractor, got = run(case, path, outputs=tuple(expected))
    assert got.keys() == expected.keys() == extractor.outputs.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape == (case.count, extractor.outputs[name])
        assert got[name].dtype == np.float32
        assert worst(got[name], value) < FLOAT32
    assert_kept(got["embedding"], expected["embedding"], case, path)
    assert extractor.identity["route"] == "npz"
    assert extractor.identity["weights"].startswith("sha256:")
    if case is R50X1:
        _, reduced = run(case, path, precision="bfloat16")
        assert 1e-3 < relative_l2(reduced["embedding"], expected["embedding"]) < 5e-2


@pytest.mark.xdist_group("r101x3")
def test_parity_of_r101x3_at_224(r101x3_checkpoint):
    expected = R101X3.expected()["embedding"]
    _, got = run(R101X3, r101x3_checkpoint)
    assert_kept(got["embedding"], expected, R101X3, r101x3_checkpoint)


@pytest.mark.soak
@pytest.mark.xdist_group("r101x3")
def test_r101x3_in_bfloat16(r101x3_checkpoint):
    _, reduced = run(R101X3, r101x3_checkpoint, precision="bfloat16")
    assert 1e-3 < relative_l2(reduced["embedding"], R101X3.expected()["embedding"]) < 4e-2


def test_the_authors_formulas_give_the_golden_vectors_in_float64(tmp_path):
    got = authors_features(R50X1_ODD, R50X1_ODD.checkpoint(tmp_path), np.float64)
    assert worst(got, R50X1_ODD.expected()["embedding"]) < 1e-7


def test_untrained_weights_are_the_same_everywhere():
    first, second = tiny(), tiny()
    batch = pixels(4)
    np.testing.assert_array_equal(first(batch)["embedding"], second(batch)["embedding"])
    assert first.identity == {"route": "npz", "weights": "untrained-v1/tiny", "untrained": "true"}
    assert dict(first.outputs) == {"embedding": 256}
    assert (first.batch_size, first.image_size, first.precision) == (4, 32, "float32")


def test_calls_from_many_threads_agree():
    extractor = tiny()
    batches = [pixels(4, seed=seed) for seed in range(16)]
    expected = [extractor(batch)["embedding"] for batch in batches]
    start = threading.Barrier(4)

    def work(mine):
        start.wait()
        return [extractor(batch)["embedding"] for batch in mine]

    with ThreadPoolExecutor(4) as pool:
        got = [vector for part in pool.map(work, [batches[k::4] for k in range(4)]) for vector in part]
    for k, vector in enumerate(got):
        np.testing.assert_array_equal(vector, expected[k // 4 + k % 4 * 4])


def test_a_reduced_precision_has_the_same_model_in_float32_at_hand():
    outputs = {"outputs": ("embedding", "top_k"), "top_k": 3}
    reduced, exact = (
        load(
            resolve("untrained/tiny/imagenet21k_classification"),
            "",
            image_size=32,
            batch_size=n,
            precision=p,
            **outputs,
        )
        for n, p in ((4, "bfloat16"), (1, "float32"))
    )
    batch = pixels(3)
    got = reduced.resized(2).in_float32(batch)
    for name, values in got.items():
        right = np.concatenate([exact(batch[row : row + 1])[name] for row in range(3)])
        np.testing.assert_array_equal(values, right)
        assert values.dtype == right.dtype
    assert set(got) == set(reduced.outputs)
    assert exact.in_float32(batch) is None


def test_an_extractor_can_be_weakly_referenced_and_goes_away():
    extractor = tiny()
    reference = weakref.ref(extractor)
    del extractor
    gc.collect()
    assert reference() is None


def test_pixels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"pixels of shape \(3, 32, 32, 3\), expected \(4, 32, 32, 3\): pad"):
        tiny()(pixels(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "float8"},
            "no precision 'float8'; there are float32, tensorfloat32, bfloat16, float16",
        ),
        ({"outputs": ("logits",)}, "untrained/tiny has no head"),
        ({"outputs": ("top",)}, "no output .top.; there are embedding, logits, top_k"),
    ],
)
def test_what_the_network_cannot_give_is_refused(options, message):
    with pytest.raises(UnusableModel, match=message):
        tiny(**options)


class Hub(tf.Module):
    """What a TF-Hub module looks like from outside: the means of the channels, each twice."""

    def __init__(self, side=None):
        super().__init__()
        self.scale = tf.Variable(1.0)
        spec = tf.TensorSpec((None, side, side, 3), tf.float32)
        self.call = tf.function(lambda x: tf.repeat(tf.reduce_mean(x, [1, 2]), 2, 1) * self.scale, [spec])

    def __call__(self, images):
        return self.call(images)


def saved(module, folder, **signatures):
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return str(folder)


def from_folder(path, image_size=32, output="output_0", **options):
    """The features of a SavedModel from elsewhere."""
    named = {"outputs_map": {"embedding": output}, **options}
    return load(resolve(path), path, image_size=image_size, batch_size=4, **named)


def hub_call(side=None):
    module = Hub(side)
    module.__call__ = module.call
    return module


def test_a_saved_model_is_called_with_pixels_in_0_1(tmp_path):
    extractor = from_folder(saved(hub_call(), tmp_path / "hub"))
    gc.collect()
    batch = pixels(4)
    expected = np.repeat(batch.mean((1, 2)) / 255, 2, 1)
    np.testing.assert_allclose(extractor(batch)["embedding"], expected, rtol=1e-5)
    assert dict(extractor.outputs) == {"embedding": 6}
    assert extractor.identity["route"] == "saved_model"


@pytest.mark.parametrize("name", ["[a]", "b*?", "{c,d}", "e\\f"])
def test_a_saved_model_below_a_folder_that_is_named_like_a_pattern(tmp_path, name):
    plain = saved(hub_call(), tmp_path / "hub")
    expected = from_folder(plain)
    (tmp_path / name).mkdir()
    os.rename(plain, tmp_path / name / "model")
    extractor = from_folder(str(tmp_path / name / "model"))
    assert extractor.identity == expected.identity
    np.testing.assert_array_equal(extractor(pixels(4))["embedding"], expected(pixels(4))["embedding"])


def test_a_checkpoint_below_a_folder_that_is_named_like_a_pattern(tmp_path):
    (tmp_path / "[a]*{b,c}").mkdir()
    path = R50X1_ODD.checkpoint(tmp_path / "[a]*{b,c}")
    assert check(path, "r50x1") == 1000
    assert load(resolve(path), path, image_size=97, batch_size=2).identity["route"] == "npz"


def test_the_identity_follows_the_variables(tmp_path):
    one, same, other = hub_call(), hub_call(), hub_call()
    other.scale.assign(2.0)
    digests = [
        from_folder(saved(m, tmp_path / str(k))).identity["weights"] for k, m in enumerate((one, other))
    ]
    assert digests[0] != digests[1]
    del same


def test_a_signature_serves_where_the_module_is_no_function(tmp_path):
    module = Hub()
    two = tf.function(lambda a, b: a + b, [tf.TensorSpec([], tf.float32)] * 2)
    path = saved(module, tmp_path / "m", a_two=two, images=module.call)
    batch = pixels(4)
    expected = np.repeat(batch.mean((1, 2)) / 255, 2, 1)
    np.testing.assert_allclose(from_folder(path)(batch)["embedding"], expected, rtol=1e-5)


def test_no_usable_signature_lists_what_there_is(tmp_path):
    two = tf.function(lambda a, b: a + b, [tf.TensorSpec([], tf.float32)] * 2)
    maps = tf.function(lambda images: images * 2, [tf.TensorSpec((None, None, None, 3), tf.float32)])
    path = saved(tf.Module(), tmp_path / "m", sums=two, maps=maps)
    with pytest.raises(UnusableModel) as raised:
        from_folder(path)
    text = str(raised.value)
    assert text.startswith(f"{path} has no usable signature; a SavedModel needs a function of float32 images")
    assert "signature 'maps': returns output_0 float32 (None, 32, 32, 3)" in text
    assert "signature 'sums': takes float32 (), float32 (), returns output_0 float32 ()" in text


def test_a_fixed_image_size_names_both_sizes(tmp_path):
    path = saved(hub_call(side=48), tmp_path / "m")
    with pytest.raises(UnusableModel, match="takes images of 48x48 only, not of 32x32"):
        from_folder(path)
    assert dict(from_folder(path, image_size=48).outputs) == {"embedding": 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bfloat16"}, "--precision=bfloat16 is not available for .* use the .npz"),
        ({"outputs": ("logits",)}, "provides embedding only, not logits"),
    ],
)
def test_what_a_saved_model_cannot_give_is_refused(tmp_path, options, message):
    path = saved(hub_call(), tmp_path / "m")
    with pytest.raises(UnusableModel, match=message):
        from_folder(path, **options)


def test_golden_files_all_have_a_test():
    stored = {path.stem for path in checkpoints.FOLDER.glob("*.npz")}
    assert stored == {case.file for case in (R50X1, R50X1_ODD, R101X1, R101X3)}
