"""A tuned model in the job: its own image size and class names, resumed, refused and evaluated."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bit.export import export, write_checkpoint
from bit.models import ARCHITECTURES
from bit.weights import Arrays, Untrained
from pipeline import evaluate, options, verify
from pipeline import weights as weights_of_job
from pipeline.main import main
from tests import helpers
from tests.places import safetensors
from tests.storage.memory import MemoryStore
from transforms.storage import stores

NAMES = ("tench", "café au lait", "鲤鱼", "none of them")
CONTENT = "".join(f"{name}\n" for name in NAMES).encode()
SIDE = 48


def weights():
    """A tiny network whose head tells the test's pictures apart."""
    source = Untrained(ARCHITECTURES["tiny"], 4)
    kernel = np.random.default_rng(3).normal(size=(1, 1, 256, 4)).astype(np.float32)
    return Arrays(
        source.architecture,
        4,
        lambda name: kernel if name.endswith("conv2d/kernel") and "head" in name else source.array(name),
    )


@pytest.fixture(scope="module")
def tuned_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    export(weights(), str(folder / "saved"), head=True, side=SIDE, classes=NAMES)
    (folder / "npz").mkdir()
    write_checkpoint(weights(), str(folder / "npz/model.npz"), NAMES, SIDE)
    shutil.copytree(folder / "npz", folder / "timm", ignore=shutil.ignore_patterns("*.npz"))
    (folder / "timm/model.safetensors").write_bytes(safetensors(weights()))
    return {
        "saved": folder / "saved",
        "npz": folder / "npz/model.npz",
        "file": folder / "npz",
        "timm": folder / "timm/model.safetensors",
    }


@pytest.fixture
def shards(tmp_path):
    return helpers.write_shards(tmp_path / "in", (4, 3))


def run(model, shards, output, *flags, expect=0):
    outputs = () if any("--outputs=" in flag for flag in flags) else ("--outputs=embedding,logits,top_k",)
    request = (f"--model={model}", f"--input={shards}", "--pass_through=image/class/label", *outputs, *flags)
    assert main([f"--output={output}", *request]) == expect


@pytest.mark.parametrize("kind", ["saved", "npz", "timm"])
def test_the_job_takes_size_and_names_from_the_model(kind, tuned_models, shards, tmp_path, capsys):
    output = tmp_path / "out"
    run(tuned_models[kind], shards, output)
    manifest = helpers.manifest(output)
    assert manifest["preprocessing"]["image_size"] == SIDE
    assert manifest["top_k"] == 4  # all there are
    assert manifest["class_names"] == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert (output / "class_names.txt").read_bytes() == CONTENT
    assert manifest["loaded_model"]["route"] == {"saved": "folded_saved_model"}.get(kind, "npz")
    assert manifest["dimensions"] == {
        "embedding": 256,
        "logits": 4,
        "top_k/class": 4,
        "top_k/name": 4,
        "top_k/probability": 4,
    }
    assert verify.main([str(output)]) == 0
    records = helpers.read_all(output)
    assert len(records) == 7
    for record in records:
        order = np.argsort(-record["logits"], kind="stable").tolist()
        assert record["top_k/class"] == order
        assert [name.decode() for name in record["top_k/name"]] == [NAMES[c] for c in order]
    # Labels are the seeds 0 to 6: four of them are classes, three are not and are counted.
    capsys.readouterr()
    assert evaluate.main([str(output), "--label=image/class/label", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["inputs"], result["evaluated"]) == (7, 4)
    assert result["not_evaluated"] == {"a label that is no class": 3}
    right = np.mean([r["top_k/class"][0] == r["image/class/label"][0] for r in records[:4]])
    assert result["top_1"] == right
    assert result["top_5"] == 1.0
    assert {c["name"] for c in result["classes"]} == set(NAMES)


def test_the_forms_give_the_same_vectors_and_digest(tuned_models, shards, tmp_path):
    kinds = ("saved", "npz", "timm")
    for kind in kinds:
        run(tuned_models[kind], shards, tmp_path / kind)
    for one, *others in zip(*(helpers.read_all(tmp_path / kind) for kind in kinds), strict=True):
        for other in others:
            np.testing.assert_array_equal(one["logits"], other["logits"])
            assert one["top_k/name"] == other["top_k/name"]
    (digest,) = {helpers.manifest(tmp_path / kind)["loaded_model"]["arrays"] for kind in kinds}
    assert digest.startswith("sha256:")


def test_the_digest_tells_another_head_only_where_the_head_is_used(tuned_models, shards, tmp_path):
    other = tmp_path / "other.npz"
    write_checkpoint(Untrained(ARCHITECTURES["tiny"], 4), str(other), NAMES, SIDE)
    for outputs, same in (("logits", False), ("embedding", True)):
        digests = set()
        for name, model in (("mine", tuned_models["npz"]), ("other", other)):
            run(model, shards, tmp_path / f"{name}-{outputs}", f"--outputs={outputs}")
            digests.add(helpers.manifest(tmp_path / f"{name}-{outputs}")["loaded_model"]["arrays"])
        assert (len(digests) == 1) is same


@pytest.mark.parametrize("kind", ["saved", "npz"])
def test_names_that_have_changed_are_another_request(kind, tuned_models, shards, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(tuned_models["saved" if kind == "saved" else "file"], copy)
    model, names = (
        (copy, copy / "assets/classes.txt") if kind == "saved" else (copy / "model.npz", copy / "classes.txt")
    )
    run(model, shards, tmp_path / "out")
    names.write_text("a\nb\nc\nd\n")
    run(model, shards, tmp_path / "out", expect=2)
    assert "was made with " in capsys.readouterr().err
    run(model, shards, tmp_path / "out", "--overwrite")
    assert (tmp_path / "out/class_names.txt").read_text() == "a\nb\nc\nd\n"
    assert helpers.read_all(tmp_path / "out")[0]["top_k/name"][0] in (b"a", b"b", b"c", b"d")


def test_flags_go_before_what_the_model_says(tuned_models, shards, tmp_path):
    run(tuned_models["saved"], shards, tmp_path / "out", "--image_size=32", "--top_k=2")
    manifest = helpers.manifest(tmp_path / "out")
    assert (manifest["preprocessing"]["image_size"], manifest["top_k"]) == (32, 2)


@pytest.mark.parametrize("kind", ["saved", "npz", "timm"])
def test_pictures_are_turned_as_the_model_says_unless_a_flag_does(kind, shards, tmp_path):
    """An upright picture, stored on its side, gives the vector of the upright one."""
    folder = tmp_path / "model"
    if kind == "saved":
        export(weights(), str(folder), head=True, side=SIDE, classes=NAMES, exif_orientation="apply")
    else:
        folder.mkdir()
        write_checkpoint(weights(), str(folder / "model.npz"), NAMES, SIDE, "apply")
        (folder / "model.safetensors").write_bytes(safetensors(weights()))
    model = {"saved": folder, "npz": folder / "model.npz", "timm": folder / "model.safetensors"}[kind]
    photos = tmp_path / "photos"
    photos.mkdir()
    draw = np.random.RandomState(2)
    upright = Image.fromarray(draw.randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    upright.save(photos / "1-upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(photos / "2-on-its-side.png", exif=exif)
    for flags, orientation in (((), "apply"), (("--exif_orientation=ignore",), "ignore")):
        output = tmp_path / orientation
        request = (f"--model={model}", f"--input={photos}", "--outputs=embedding", *flags)
        assert main([f"--output={output}", *request]) == 0
        assert helpers.manifest(output)["preprocessing"]["exif_orientation"] == orientation
        assert json.loads((output / "request.json").read_text())["exif_orientation"] == orientation
        one, other = (record["embedding"] for record in helpers.read_all(output))
        assert np.array_equal(one, other) == (orientation == "apply")


def test_features_alone_need_and_leave_no_names(tuned_models, shards, tmp_path):
    run(tuned_models["saved"], shards, tmp_path / "out", "--outputs=embedding")
    assert "class_names" not in helpers.manifest(tmp_path / "out")
    assert not (tmp_path / "out/class_names.txt").exists()


def test_a_file_of_the_users_is_not_written_over(tuned_models, shards, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/class_names.txt").write_text("mine\n")
    run(tuned_models["saved"], shards, tmp_path / "out", expect=2)
    assert "class_names.txt, which this job did not write" in capsys.readouterr().err
    assert (tmp_path / "out/class_names.txt").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top_k=5"], "has 4 classes: --top_k=5 is more than that"),
        (["--outputs_map=logits"], "--outputs_map=logits: give embedding=NAME or logits=NAME"),
        (["--outputs_map=logits=dense"], "has no output 'dense' that is float32"),
        (["--model=tuned.keras"], "tuned.keras is a Keras file"),
    ],
)
def test_a_wrong_request_is_refused(flags, message, tuned_models, shards, tmp_path, capsys):
    run(tuned_models["saved"], shards, tmp_path / "out", *flags, expect=2)
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("features-*"))


@pytest.mark.parametrize("kind", ["saved", "npz"])
def test_a_model_in_a_store_brings_size_and_names_too(kind, tuned_models, monkeypatch):
    """The launcher reads them through the store's client, as the folder is not on this machine."""
    store = MemoryStore()
    monkeypatch.setitem(stores._BY_SCHEME, "memory", store)
    local = tuned_models["saved" if kind == "saved" else "file"]
    store.files = {f"memory://m/{name}": data for name, data in helpers.contents(local).items()}
    uri = {"saved": "memory://m", "npz": "memory://m/model.npz"}[kind]
    request = ["--input=x", "--output=y", f"--model={uri}", "--outputs=top_k"]
    config, _ = options.parse(request)
    assert config.model.image_size == 224
    described = weights_of_job.described(config, is_local_run=False)
    assert described.model.image_size == described.preprocessing.image_size == SIDE
    assert described.preprocessing.exif_orientation == "ignore"
    assert (described.model.class_names, described.model.top_k) == (NAMES, 4)
    config, _ = options.parse([*request, "--image_size=224"])
    assert weights_of_job.described(config, is_local_run=False).model.image_size == 224
