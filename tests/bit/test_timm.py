"""bit.timm: timm's files hold the same arrays, as timm's own module says.

What it says is in tests/golden/timm.json.gz; with --soak it says it again, in an environment of its own.
`python -m tests.bit.test_timm PYTHON` writes that file, with an interpreter that has timm and PyTorch.
"""

import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.environments import python_of
from bit import models, timm
from bit.check import check
from bit.checkpoint import open_checkpoint
from bit.load import load
from bit.models import ARCHITECTURES, OFFICIAL, UnusableModel
from bit.weights import Untrained, shapes
from tests import checkpoints, engines, helpers, places

# timm makes its module of an official checkpoint, runs it on pictures in [-1, 1], and saves both.
SIDE = """
import sys
import numpy as np, timm, torch
from safetensors.torch import save_file
name, npz, pictures, out = sys.argv[1:]
module = timm.create_model(name, pretrained=False).eval()
module.load_pretrained(npz)
save_file(module.state_dict(), f"{out}/model.safetensors")
with torch.no_grad():
    features = module.forward_features(torch.from_numpy(np.load(pictures).transpose(0, 3, 1, 2).copy()))
    logits = module.forward_head(features)
np.savez(f"{out}/vectors.npz", embedding=features.mean((2, 3)).numpy(), logits=logits.numpy())
"""
# Names and shapes of each network, without memory for its numbers.
MEMBERS = """
import json, sys
import timm, torch
with torch.device("meta"):
    state = {name: timm.create_model(name, pretrained=False).state_dict() for name in sys.argv[1:]}
print(json.dumps({name: {n: list(v.shape) for n, v in s.items()} for name, s in state.items()}))
"""


GOLDEN = checkpoints.FOLDER / "timm.json.gz"
MEMBERS_OF_TIMM = [
    f"resnetv2_{member[1:]}_bit.goog_in21k{tuned}" for member in OFFICIAL for tuned in ("", "_ft_in1k")
]


@pytest.fixture(scope="module")
def python():
    """The interpreter of an environment with PyTorch and timm, made once and kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIT_BENCHMARK_ENVIRONMENTS", str(engines.CACHE))
        found = python_of("torch")
    assert found, "PyTorch and timm could not be installed"
    return found


def run(python, script, *arguments):
    done = subprocess.run([python, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def timms_file(python, official, folder):
    """timm's file of an official checkpoint, and beside it what its module makes of pictures.npy there."""
    np.save(folder / "pictures.npy", checkpoints.R50X1.pictures() / 127.5 - 1)
    run(python, SIDE, MEMBERS_OF_TIMM[0], official, str(folder / "pictures.npy"), str(folder))
    return folder / "model.safetensors"


def said_by(python, folder):
    """What the golden file holds: shapes of every member's arrays by name, and digests of those of one checkpoint."""
    file = timms_file(python, checkpoints.R50X1.checkpoint(folder), folder)
    arrays = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in load_file(file).items()}
    return {"members": json.loads(run(python, MEMBERS, *MEMBERS_OF_TIMM)), "arrays": arrays}


@pytest.fixture(scope="module")
def golden():
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


@pytest.mark.soak
def test_timm_says_what_the_golden_file_says(python, golden, tmp_path):
    assert said_by(python, tmp_path) == golden


def test_a_file_with_timms_arrays_is_the_official_checkpoint(golden, tmp_path):
    official, path = checkpoints.R50X1.checkpoint(tmp_path), tmp_path / "model.safetensors"
    ours = open_checkpoint(official)
    path.write_bytes(places.safetensors(ours))
    arrays = load_file(path)
    assert {n: hashlib.sha256(value.tobytes()).hexdigest() for n, value in arrays.items()} == golden["arrays"]

    theirs = open_checkpoint(str(path), "r50x1")
    assert (theirs.architecture, theirs.classes) == (ours.architecture, ours.classes)
    for array in shapes(ours.architecture, ours.classes):
        assert theirs.array(array).tobytes() == ours.array(array).tobytes(), array


@pytest.mark.soak
def test_timms_own_module_gives_the_same_vectors(python, tmp_path):
    case = checkpoints.R50X1
    official = case.checkpoint(tmp_path)
    path = str(timms_file(python, official, tmp_path))
    model = models.resolve(path)
    options = {"image_size": case.side, "batch_size": case.count, "outputs": ("embedding", "logits")}
    extractor = load(model, path, **options)
    vectors = extractor(case.pictures())
    same = load(models.resolve(official), official, **options)
    assert extractor.identity["arrays"] == same.identity["arrays"]
    with np.load(tmp_path / "vectors.npz") as stored:
        for output, expected in case.expected().items():
            assert vectors[output].tobytes() == same(case.pictures())[output].tobytes()
            assert checkpoints.worst(stored[output], expected) < 2e-5
            assert checkpoints.worst(vectors[output], stored[output]) < 4e-5


def test_timm_has_every_member_by_these_names_and_no_other_arrays(golden):
    assert list(golden["members"]) == MEMBERS_OF_TIMM
    for name, state in golden["members"].items():
        member, classes = f"r{name.split('_')[1]}", 1000 if "ft" in name else 21843
        found = {
            timm.official_name(n): tuple(np.array(s)[[2, 3, 1, 0]] if len(s) == 4 else s)
            for n, s in state.items()
        }
        assert found == shapes(ARCHITECTURES[member], classes), name
        assert f"timm/{name}" in models.mirrors.timm_names()


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(places.safetensors(Untrained(ARCHITECTURES["tiny"], 7)))
    return path


def test_arrays_can_be_changed_in_place_and_are_read_anew(tiny):
    weights, expected = open_checkpoint(str(tiny)), Untrained(ARCHITECTURES["tiny"], 7)
    for name in shapes(weights.architecture, 7):
        value = weights.array(name)
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, expected.array(name))
        value += 1
        np.testing.assert_array_equal(weights.array(name), expected.array(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("norm.bias"), r"missing: resnet/group_norm/beta \(256,\)"),
        (lambda arrays: arrays.update({"extra.weight": np.zeros(2, np.float32)}), "unexpected: extra.weight"),
        (
            lambda arrays: arrays.update({"norm.bias": np.zeros(3, np.float32)}),
            r"misshapen: .*beta has \(3,\), expected \(256,\)",
        ),
        (
            lambda arrays: arrays.update({"norm.bias": np.zeros(256, np.int32)}),
            "norm.bias holds I32; convert it to float32",
        ),
        (lambda arrays: arrays.clear(), "is not a BiT checkpoint"),
    ],
)
def test_another_network_is_refused_by_name(tiny, change, message):
    arrays = load_file(tiny)
    change(arrays)
    save_file(arrays, tiny)
    with pytest.raises(UnusableModel, match=message):
        check(str(tiny))


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_cut_file_is_refused(tiny, size):
    tiny.write_bytes(tiny.read_bytes()[:size])
    with pytest.raises(UnusableModel, match=r"is not a complete .safetensors file .*cut off"):
        check(str(tiny))


def test_half_precision_is_read_as_float32(tiny):
    save_file({name: value.astype(np.float16) for name, value in load_file(tiny).items()}, tiny)
    value = open_checkpoint(str(tiny)).array("group_norm/gamma")
    assert value.dtype == np.float32
    assert (value == 1).all()


def test_the_job_takes_such_a_file(tiny, tmp_path):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(1)])
    helpers.job(f"--input={path}", f"--model={tiny}", output=tmp_path / "out")
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert helpers.manifest(tmp_path / "out")["model"]["weights"] == f"sha256:{digest}"
    assert helpers.read_all(tmp_path / "out")[0]["embedding"].shape == (256,)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        said = said_by(sys.argv[1], Path(place))
    GOLDEN.write_bytes(gzip.compress(json.dumps(said, separators=(",", ":")).encode(), mtime=0))
