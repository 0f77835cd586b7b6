"""--outputs and --top_k: the outputs of a head, their names, and what is refused."""

import numpy as np
import pytest

from bit import outputs
from bit.labels import read_labels
from bit.load import load
from bit.models import ARCHITECTURES, UnusableModel, resolve
from bit.weights import HEAD_BIAS, HEAD_KERNEL, Untrained, shapes
from pipeline import options
from pipeline.flags import RequestError
from tests import helpers

SIDE = 32
IMAGENET21K = "untrained/tiny/imagenet21k_classification"
ILSVRC2012 = "untrained/tiny/ilsvrc2012_classification"


def pixels(count=3):
    return np.random.default_rng(0).uniform(0, 255, (count, SIDE, SIDE, 3)).astype(np.float32)


def run(name, outputs, path="", **more):
    model = load(resolve(name), path, image_size=SIDE, batch_size=3, outputs=outputs, **more)
    return model, model(pixels())


@pytest.mark.parametrize(
    ("head", "count", "known"),
    [
        (
            "imagenet21k",
            21843,
            {
                0: (b"n00004475", b"organism, being"),
                359: (b"n01440764", b"tench, Tinca tinca"),
                2167: (b"n02084071", b"dog, domestic dog, Canis familiaris"),
                2388: (b"n02121808", b"domestic cat, house cat, Felis domesticus, Felis catus"),
                21842: (b"n15102894", b"knothole"),
            },
        ),
        (
            "ilsvrc2012",
            1000,
            {
                0: (b"n01440764", b"tench, Tinca tinca"),
                207: (b"n02099601", b"golden retriever"),
                281: (b"n02123045", b"tabby, tabby cat"),
                999: (b"n15075141", b"toilet tissue, toilet paper, bathroom tissue"),
            },
        ),
    ],
)
def test_class_names_stand_at_their_indices(head, count, known):
    labels = read_labels(head)
    assert labels.synsets.shape == labels.names.shape == (count,)
    assert len(set(labels.synsets.tolist())) == count
    assert sorted(labels.synsets.tolist()) == labels.synsets.tolist()
    assert {index: (labels.synsets[index], labels.names[index]) for index in known} == known
    assert all(name.decode() for name in labels.names.tolist())


def test_imagenet21k_takes_each_class_by_itself():
    model, got = run(IMAGENET21K, ("top_k", "logits"), top_k=7)
    assert dict(model.outputs) == {"logits": 21843} | dict.fromkeys(outputs.TOP_FEATURES, 7)
    assert got.keys() == model.outputs.keys()
    logits, labels = got["logits"], read_labels("imagenet21k")
    best = np.argsort(-logits, axis=1, kind="stable")[:, :7]
    assert got["top_k/class"].dtype == np.int64
    np.testing.assert_array_equal(got["top_k/class"], best)
    chosen = np.take_along_axis(logits, best, 1).astype(np.float64)
    np.testing.assert_allclose(got["top_k/probability"], 1 / (1 + np.exp(-chosen)), rtol=1e-5)
    np.testing.assert_array_equal(got["top_k/synset"], labels.synsets[best])
    np.testing.assert_array_equal(got["top_k/name"], labels.names[best])


def test_ilsvrc2012_shares_one_probability_among_its_classes():
    _, got = run(ILSVRC2012, ("embedding", "logits", "top_k"), top_k=1000)
    exact = np.exp(got["logits"].astype(np.float64))
    exact /= exact.sum(1, keepdims=True)
    np.testing.assert_allclose(got["top_k/probability"], -np.sort(-exact, axis=1), rtol=1e-5)
    np.testing.assert_allclose(got["top_k/probability"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(got["embedding"], run(ILSVRC2012, ("embedding",))[1]["embedding"])


@pytest.mark.parametrize(("classes", "names"), [(10, False), (1000, False), (21843, True)])
def test_a_file_of_another_name_has_class_names_where_their_number_tells(tmp_path, classes, names):
    weights = Untrained(ARCHITECTURES["tiny"], classes)
    path = str(tmp_path / "mine.npz")
    np.savez(
        path, **{f"resnet/{name}": weights.array(name) for name in shapes(weights.architecture, classes)}
    )
    model, got = run(path, ("top_k",), path)
    named = {"top_k/synset", "top_k/name"} if names else set()
    assert got.keys() == model.outputs.keys() == {"top_k/class", "top_k/probability"} | named


def test_a_head_of_another_task_under_an_official_name_gets_no_names(tmp_path):
    weights = Untrained(ARCHITECTURES["r50x1"], 3)
    path = str(tmp_path / "BiT-M-R50x1.npz")
    arrays = {
        f"resnet/{name}": np.zeros(shape, np.float32)
        for name, shape in shapes(weights.architecture, 3).items()
    }
    arrays[f"resnet/{HEAD_BIAS}"] = np.log(np.array([1, 2, 5], np.float32))
    assert not arrays[f"resnet/{HEAD_KERNEL}"].any()
    np.savez(path, **arrays)
    _, got = run(path, ("top_k",), path, top_k=2)
    np.testing.assert_array_equal(got["top_k/class"], [[2, 1]] * 3)
    np.testing.assert_allclose(got["top_k/probability"], [[0.625, 0.25]] * 3, rtol=1e-6)
    assert len(got) == 2


def arguments(*flags):
    return ["--input=in", "--output=out", *flags]


def test_the_order_asked_for_does_not_matter():
    config, _ = options.parse(
        arguments("--model=bit/m-r50x1", "--outputs=top_k,embedding,top_k", "--top_k=3")
    )
    assert (config.model.outputs, config.model.top_k) == (("embedding", "top_k"), 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=bit/m-r50x1", "--outputs=logit"], "no output 'logit'; there are embedding, logits, top_k"),
        (["--model=bit/m-r50x1", "--outputs="], "no output requested"),
        (["--model=untrained/tiny", "--outputs=logits"], "untrained/tiny has no head, so no logits"),
        (
            ["--model=https://tfhub.dev/google/bit/m-r101x3/1", "--outputs=logits,top_k"],
            "has no head, so no logits and no top_k: use --outputs=embedding",
        ),
        (
            ["--model=vtab/BiT-M-R50x1-run0-patch_camelyon.npz", "--outputs=top_k", "--top_k=5"],
            "has 2 classes: --top_k=5 is more than that",
        ),
        (["--model=bit/m-r50x1", "--top_k=3"], "--top_k=3 sets the number of classes for --outputs=top_k"),
        (
            ["--model=bit/m-r50x1", "--outputs=top_k", "--pass_through=top_k/name"],
            "--pass_through=top_k/name: reserved for the job's own features",
        ),
    ],
)
def test_what_cannot_be_given_is_refused_at_launch(flags, message):
    with pytest.raises(RequestError, match=message):
        options.parse(arguments(*flags))


def test_a_name_that_this_run_does_not_write_may_pass_through():
    config, _ = options.parse(
        arguments("--model=bit/m-r50x1", "--outputs=logits", "--pass_through=embedding")
    )
    assert config.read.pass_through == ("embedding",)


def test_a_headless_checkpoint_is_refused_before_anything_starts(tmp_path, capsys):
    weights = Untrained(ARCHITECTURES["tiny"])
    path = str(tmp_path / "mine.npz")
    np.savez(path, **{f"resnet/{name}": weights.array(name) for name in shapes(weights.architecture)})
    pattern = helpers.write_shards(tmp_path / "in", (1,))
    flags = (f"--input={pattern}", f"--model={path}", "--outputs=logits")
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert "has no head, so no logits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnusableModel, match="has no head, so no logits"):
        run(path, ("logits",), path)


def test_the_job_writes_what_the_model_gives_and_its_fingerprint_tells(tmp_path, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (3,))
    flags = (f"--input={pattern}", f"--model={ILSVRC2012}", "--outputs=embedding,logits,top_k")
    helpers.job(*flags, "--top_k=4", output=tmp_path / "out")
    labels = read_labels("ilsvrc2012")
    for record in helpers.read_all(tmp_path / "out"):
        assert record["embedding"].shape == (256,)
        assert record["logits"].shape == (1000,)
        assert record["top_k/class"] == np.argsort(-record["logits"], kind="stable")[:4].tolist()
        assert record["top_k/name"] == labels.names[record["top_k/class"]].tolist()
        assert record["top_k/synset"] == labels.synsets[record["top_k/class"]].tolist()
        assert record["top_k/probability"].shape == (4,)
    assert helpers.manifest(tmp_path / "out")["outputs"] == ["embedding", "logits", "top_k"]
    capsys.readouterr()
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert "was made with top_k = 4, this run requests 5" in capsys.readouterr().err
