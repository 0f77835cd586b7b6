"""bit.models: what each name stands for."""

import subprocess
import sys

import pytest

from bit.models import ARCHITECTURES, HEADS, OFFICIAL, UnknownModel, names, resolve

BUCKET = "https://storage.googleapis.com/bit_models/"


@pytest.mark.parametrize(
    ("name", "kind", "uri", "architecture", "image_size", "embedding_size", "head"),
    [
        ("bit/m-r101x3", "npz", BUCKET + "BiT-M-R101x3.npz", "r101x3", 224, 6144, "imagenet21k"),
        ("bit/m-r101x3/1", "npz", BUCKET + "BiT-M-R101x3.npz", "r101x3", 224, 6144, "imagenet21k"),
        (
            "bit/m-r152x4/ilsvrc2012_classification",
            "npz",
            BUCKET + "BiT-M-R152x4-ILSVRC2012.npz",
            "r152x4",
            480,
            8192,
            "ilsvrc2012",
        ),
        (
            "bit/s-r50x3/ilsvrc2012_classification",
            "npz",
            BUCKET + "BiT-S-R50x3.npz",
            "r50x3",
            224,
            6144,
            "ilsvrc2012",
        ),
        ("BiT-S-R152x2.npz", "npz", BUCKET + "BiT-S-R152x2.npz", "r152x2", 224, 4096, "ilsvrc2012"),
        (
            "vtab/BiT-M-R101x3-run0-caltech101.npz",
            "npz",
            BUCKET + "vtab/BiT-M-R101x3-run0-caltech101.npz",
            "r101x3",
            480,
            6144,
            "vtab/caltech101",
        ),
        (
            "gs://mine/BiT-M-R50x1-run2-svhn.npz",
            "npz",
            "gs://mine/BiT-M-R50x1-run2-svhn.npz",
            "r50x1",
            128,
            2048,
            "vtab/svhn",
        ),
        ("/data/other.npz", "npz", "/data/other.npz", "", 224, 0, ""),
        (
            "https://tfhub.dev/google/bit/m-r101x3/1",
            "npz",
            BUCKET + "BiT-M-R101x3.npz",
            "r101x3",
            224,
            6144,
            "imagenet21k",
        ),
        (
            "https://host/BiT-M-R50x1.npz",
            "npz",
            "https://host/BiT-M-R50x1.npz",
            "r50x1",
            224,
            2048,
            "imagenet21k",
        ),
        ("/data/model.safetensors", "npz", "/data/model.safetensors", "", 224, 0, ""),
        ("gs://mine/module", "saved_model", "gs://mine/module", "", 224, 0, ""),
        ("https://host/m.tar.gz", "saved_model", "https://host/m.tar.gz", "", 224, 0, ""),
        ("untrained/r101x3", "untrained", "", "r101x3", 224, 6144, ""),
        (
            "untrained/tiny/ilsvrc2012_classification",
            "untrained",
            "",
            "tiny",
            224,
            256,
            "ilsvrc2012",
        ),
    ],
)
def test_name_stands_for(name, kind, uri, architecture, image_size, embedding_size, head):
    model = resolve(name)
    assert model.name == name
    assert (model.kind, model.uri, model.architecture) == (kind, uri, architecture)
    assert (model.image_size, model.embedding_size, model.head) == (image_size, embedding_size, head)


def test_a_local_file_goes_before_the_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BiT-M-R50x1.npz").write_bytes(b"")
    assert resolve("BiT-M-R50x1.npz").uri == "BiT-M-R50x1.npz"


def test_a_local_folder_is_a_saved_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert resolve("mine").kind == "saved_model"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("bit/m-r101x5", "'bit/m-r101x3'"),
        ("bit/m-101x3", "'bit/m-r101x3'"),
        ("untrained/r50", "'untrained/r50x3'"),
        ("resnet", "'bit/m-r101x3'"),
        ("https://tfhub.dev/google/bit/m-r50x9/1", "'bit/m-r50x3'"),
        ("bit/s-r50x1/imagenet21k_classification", "bit/m-r50x1/imagenet21k_classification"),
    ],
)
def test_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(UnknownModel, match="no model") as raised:
        resolve(name)
    assert nearest in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_listed_name_resolves_to_a_known_member():
    listed = [resolve(name) for name in names()]
    assert len(listed) == len({model.name for model in listed}) == 6 * 3 + 6 * 2 + 7 * 3
    for model in listed:
        assert model.embedding_size == ARCHITECTURES[model.architecture].embedding_size
        assert model.head == "" or model.head in HEADS
    assert {model.architecture for model in listed if model.kind == "npz"} == set(OFFICIAL)


def test_listing_needs_the_standard_library_only():
    code = [
        "import sys, bit.models",
        "bit.models.main()",
        "print({'numpy', 'tensorflow'} & set(sys.modules), file=sys.stderr)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"
    assert all(name in done.stdout for name in names())
