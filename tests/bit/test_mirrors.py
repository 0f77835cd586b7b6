"""bit.mirrors and bit.download: three places for the same weights, each of which may fail, and all names for them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bit import mirrors
from bit.download import WeightsUnreachable, local_path
from bit.download import main as download
from bit.models import ARCHITECTURES, OFFICIAL, UnknownModel, resolve
from bit.weights import Untrained
from tests import helpers
from tests.places import Places, archive, hollow, npz, safetensors

REAL = ARCHITECTURES["r101x3"]
WHOLE = hollow("r101x3", size=20 << 20)
R101X3 = f"{mirrors.BUCKET}/BiT-M-R101x3.npz"
TUNED = f"{mirrors.BUCKET}/BiT-M-R101x3-ILSVRC2012.npz"
ON_KAGGLE = mirrors.kaggle_url("google/bit/tensorFlow2/m-r101x3/1")
HEAD_ON_KAGGLE = mirrors.kaggle_url("google/bit/tensorFlow2/m-r101x3-imagenet21k-classification/1")
ON_HF = f"{mirrors.HUGGING_FACE}/timm/resnetv2_101x3_bit.goog_in21k/resolve/main/model.safetensors"

NAMES = {
    R101X3: [
        "bit/m-r101x3",
        "bit/m-r101x3/1",
        "google/bit/m-r101x3/1",
        "BiT/M-R101x3",
        "bit/m-r101x3/imagenet21k_classification",
        "https://tfhub.dev/google/bit/m-r101x3/1",
        "http://www.tfhub.dev/google/bit/m-r101x3/1/?tf-hub-format=compressed",
        "https://tfhub.dev/google/bit/m-r101x3/imagenet21k_classification/1",
        "https://www.kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/m-r101x3/versions/1",
        "https://kaggle.com/models/google/bit/frameworks/tensorFlow2/variations/m-r101x3/versions/1?tfhub-redirect=true",
        "https://www.kaggle.com/models/google/bit/TensorFlow2/m-r101x3/1",
        "https://www.kaggle.com/models/google/bit/tensorFlow2/m-r101x3",
        "https://www.kaggle.com/models/google/bit/tensorflow2/m-r101x3-imagenet21k-classification/1#files",
        ON_KAGGLE,
        "google/bit/tensorFlow2/m-r101x3/1",
        "google/bit/TensorFlow2/m-r101x3",
        "kaggle://google/bit/tensorFlow2/m-r101x3/1",
        "kaggle://google/bit/m-r101x3/1",
        "hf://timm/resnetv2_101x3_bit.goog_in21k",
        "hf://timm/resnetv2_101x3_bit.goog_in21k/model.safetensors",
        "hf-hub:timm/resnetv2_101x3_bit.goog_in21k",
        "https://huggingface.co/timm/resnetv2_101x3_bit.goog_in21k",
        "https://huggingface.co/timm/resnetv2_101x3_bit.goog_in21k/tree/main",
        ON_HF,
        "timm/resnetv2_101x3_bit.goog_in21k",
        "resnetv2_101x3_bit.goog_in21k",
        "https://huggingface.co/timm/resnetv2_101x3_bit.goog_in21k/blob/main/pytorch_model.bin",
        "https://hf.co/timm/resnetv2_101x3_bit.goog_in21k/resolve/main/pytorch_model.bin?download=true",
        "huggingface.co/timm/resnetv2_101x3_bit.goog_in21k",
        "tfhub.dev/google/bit/m-r101x3/1",
        "www.kaggle.com/models/google/bit/TensorFlow2/m-r101x3/1",
        "kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/m-r101x3/versions/1",
        "https://storage.googleapis.com/tfhub-modules/google/bit/m-r101x3/1.tar.gz",
        "https://tfhub-modules.storage.googleapis.com/google/bit/m-r101x3/imagenet21k_classification/1.tar.gz",
        "gs://tfhub-modules/google/bit/m-r101x3/1",
        R101X3,
        "gs://bit_models/BiT-M-R101x3.npz",
        "https://bit_models.storage.googleapis.com/BiT-M-R101x3.npz",
        "storage.googleapis.com/bit_models/BiT-M-R101x3.npz",
        "https://storage.cloud.google.com/bit_models/BiT-M-R101x3.npz?authuser=0",
        "BiT-M-R101x3.npz",
    ],
    TUNED: [
        "bit/m-r101x3/ilsvrc2012_classification",
        "https://tfhub.dev/google/bit/m-r101x3/ilsvrc2012_classification/1",
        "google/bit/tensorFlow2/m-r101x3-ilsvrc2012-classification/1",
        "timm/resnetv2_101x3_bit.goog_in21k_ft_in1k",
        "gs://bit_models/BiT-M-R101x3-ILSVRC2012.npz",
        "gs://tfhub-modules/google/bit/m-r101x3/ilsvrc2012_classification/1.tar.gz",
        "huggingface.co/timm/resnetv2_101x3_bit.goog_in21k_ft_in1k/tree/main",
    ],
    f"{mirrors.BUCKET}/BiT-S-R50x3.npz": [
        "bit/s-r50x3/ilsvrc2012_classification",
        "https://www.kaggle.com/models/google/bit/TensorFlow2/s-r50x3-ilsvrc2012-classification/1",
    ],
    f"{mirrors.BUCKET}/vtab/BiT-M-R50x1-run2-svhn.npz": [
        "vtab/BiT-M-R50x1-run2-svhn.npz",
        "gs://bit_models/vtab/BiT-M-R50x1-run2-svhn.npz",
    ],
}


@pytest.mark.parametrize(("uri", "name"), [(uri, name) for uri in NAMES for name in NAMES[uri]])
def test_every_name_means_the_one_checkpoint(uri, name):
    model = resolve(name)
    assert (model.name, model.uri, model.kind) == (name, uri, "npz")
    assert model.architecture
    assert model.head
    assert model.image_size == (480 if uri == TUNED else 128 if "svhn" in uri else 224)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("google/bit/tensorFlow2/m-r101x4/1", "bit/m-r101x3"),
        ("google/bit/tensorFlow2/m-r101x3/2", "bit/m-r101x3"),
        (
            "https://www.kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/m-r50x9/versions/1",
            "bit/m-r50x3",
        ),
        ("https://tfhub.dev/google/bit/s-r152x9/1", "bit/s-r152x4"),
        ("kaggle://google/bit", "bit/m-r101x3"),
        ("timm/resnetv2_101x3_bit.goog_in1k", "timm/resnetv2_101x3_bit.goog_in21k"),
        ("resnetv2_50x1_bit.goog_distilled_in1k", "timm/resnetv2_50x1_bit.goog_in21k"),
        ("hf://somebody/something", "bit/m-r101x3"),
        ("hf://somebody/something/model.safetensors", "bit/m-r101x3"),
        ("https://huggingface.co/somebody/something", "bit/m-r101x3"),
        ("huggingface.co/somebody/something/tree/main", "bit/m-r101x3"),
        ("https://huggingface.co/somebody/something/resolve/main/pytorch_model.bin", "bit/m-r101x3"),
        ("https://huggingface.co/google/bit-50", "bit/m-r50x1/ilsvrc2012_classification"),
        ("google/bit-50", "bit/m-r50x1/ilsvrc2012_classification"),
        (
            "https://huggingface.co/google/bit-50/resolve/main/pytorch_model.bin",
            "bit/m-r50x1/ilsvrc2012_classification",
        ),
        (
            "https://huggingface.co/a/b/blob/main/model.safetensors",
            "https://huggingface.co/a/b/resolve/main/model.safetensors",
        ),
        ("https://hf.co/a/b/blob/main/c/m.npz?x=1", "https://hf.co/a/b/resolve/main/c/m.npz"),
        ("https://huggingface.co/a/b/blob/main/README.md", "bit/m-r101x3"),
        ("gs://tfhub-modules/google/bit/s-r152x9/1", "bit/s-r152x4"),
        ("https://storage.googleapis.com/tfhub-modules/google/bit/m-r101x3/2.tar.gz", "bit/m-r101x3"),
        ("https://www.kaggle.com/datasets/somebody/m-r50x3", "bit/m-r50x3"),
        ("www.kaggle.com/api/v1/models/google/bit/tensorFlow2/m-r50x3/2/download", "bit/m-r50x3"),
        ("tfhub.dev/google/bit/m-r50x9/1", "bit/m-r50x3"),
        ("gs://bit_models", "bit/m-r101x3"),
        ("https://storage.googleapis.com/bit_models/", "bit/m-r101x3"),
        ("bit/m-r77x3", "bit/m-r50x3"),
    ],
)
def test_what_only_looks_like_one_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(UnknownModel, match="no model") as raised:
        resolve(name)
    assert f"did you mean {nearest!r}" in str(raised.value)


def test_any_other_model_of_kaggle_is_a_saved_model_behind_its_download_address():
    page = "https://www.kaggle.com/models/tensorflow/resnet-50/frameworks/TensorFlow2/variations/feature-vector/versions/3"
    api = "https://www.kaggle.com/api/v1/models/tensorflow/resnet-50/tensorFlow2/feature-vector/3/download"
    handle = "kaggle://tensorflow/resnet-50/tensorFlow2/feature-vector/3"
    for name in (page, page.removeprefix("https://"), api, handle):
        model = resolve(name)
        assert (model.kind, model.uri, model.architecture) == ("saved_model", api, "")


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("https://huggingface.co/a/b/resolve/main/model.safetensors", "npz"),
        ("https://huggingface.co/datasets/a/b/resolve/v1/c/m.npz?download=true", "npz"),
        ("https://hf.co/a/b/resolve/main/m.tar.gz", "saved_model"),
        ("https://storage.googleapis.com/bit_models/distill/R50x1_224.npz", "npz"),
        ("gs://bit_models_of_ours/BiT-M-R101x3.npz", "npz"),
        ("gs://bit_models_of_ours/module", "saved_model"),
        ("https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5", "saved_model"),
        ("https://storage.googleapis.com/tfhub-modules/google/imagenet/x/1.tar.gz", "saved_model"),
        ("resnetv2_mine.safetensors", "npz"),
        ("huggingface.co", "saved_model"),  # a folder of that name
    ],
)
def test_what_these_places_have_besides_is_taken_as_it_is(uri, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "huggingface.co").mkdir()
    model = resolve(uri)
    assert (model.uri, model.kind) == (uri, kind)
    assert not mirrors.mirrors(model.uri, True)


def test_a_local_folder_goes_before_a_places_name_without_a_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "google/bit/tensorFlow2/m-r50x1/1"
    (tmp_path / name).mkdir(parents=True)
    assert (resolve(name).kind, resolve(name).uri) == ("saved_model", name)


def where(name, head=True):
    return [f"{mirror.place}: {mirror.name}" for mirror in mirrors.mirrors(resolve(name).uri, head)]


def test_which_place_has_what():
    assert where("bit/m-r101x3", head=False) == [
        "Google's bucket: gs://bit_models/BiT-M-R101x3.npz",
        "Kaggle: google/bit/tensorFlow2/m-r101x3/1",
        "Hugging Face: timm/resnetv2_101x3_bit.goog_in21k",
    ]
    assert where("bit/m-r101x3")[1] == "Kaggle: google/bit/tensorFlow2/m-r101x3-imagenet21k-classification/1"
    # What was fine-tuned is not the network that Kaggle has without a head.
    for head in (False, True):
        assert where("bit/m-r50x1/ilsvrc2012_classification", head) == [
            "Google's bucket: gs://bit_models/BiT-M-R50x1-ILSVRC2012.npz",
            "Kaggle: google/bit/tensorFlow2/m-r50x1-ilsvrc2012-classification/1",
            "Hugging Face: timm/resnetv2_50x1_bit.goog_in21k_ft_in1k",
        ]
    assert [text.split(":")[0] for text in where("bit/m-r152x2")] == ["Google's bucket", "Hugging Face"]
    assert where("bit/s-r50x3", head=False)[1:] == ["Kaggle: google/bit/tensorFlow2/s-r50x3/1"]
    assert len(where("bit/s-r152x2")) == len(where("vtab/BiT-M-R50x1-run2-svhn.npz")) == 1
    assert {len(where(f"bit/m-{name}")) for name in OFFICIAL} == {2, 3}
    assert not mirrors.mirrors("https://host/BiT-M-R50x1.npz", True)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three places, with an R101x3 of little width and depth; the cache is empty."""
    monkeypatch.setitem(ARCHITECTURES, "r101x3", ARCHITECTURES["tiny"])
    weights = Untrained(ARCHITECTURES["tiny"])
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    with Places() as server:
        server.files = {R101X3: npz(weights), ON_HF: safetensors(weights)}
        server.files |= dict.fromkeys((ON_KAGGLE, HEAD_ON_KAGGLE), archive(folder))
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def fetch(**options):
    return local_path(resolve("bit/m-r101x3"), **options)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def left(tmp_path):
    paths = [os.path.join(at, name) for at, _, names in os.walk(tmp_path / "cache") for name in names]
    return [path for path in paths if not path.endswith(".lock")]


def test_the_bucket_is_asked_first_and_once(places, tmp_path):
    path = fetch()
    assert path == str(tmp_path / "cache" / "storage.googleapis.com" / "bit_models" / "BiT-M-R101x3.npz")
    assert content(path) == places.files[R101X3]
    assert fetch() == fetch(head=False) == fetch(offline=True) == path
    assert places.asked == ["bucket BiT-M-R101x3.npz"]


@pytest.mark.parametrize("answer", [403, 404, 500, b"<html>Please log in</html>"])
def test_kaggle_is_next_and_says_why(places, caplog, answer):
    places.answers["bucket"] = answer
    path = fetch(head=False)
    assert os.listdir(path) == ["saved_model.pb"]
    assert fetch(head=False, offline=True) == path
    assert [line.split("/")[-3] for line in places.asked[1:]] == ["m-r101x3"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    why = f"HTTP {answer}" if isinstance(answer, int) else "a web page instead"
    assert line.startswith("Google's bucket (http://127.0.0.1")
    assert why in line
    assert line.endswith("; trying Kaggle (google/bit/tensorFlow2/m-r101x3/1)")
    assert "\n" not in line


def test_with_a_head_kaggle_is_asked_for_the_one_with_it(places):
    places.answers["bucket"] = 403
    path = fetch()
    assert [line.split("/")[-3] for line in places.asked[1:]] == ["m-r101x3-imagenet21k-classification"]
    assert fetch(head=False) == path  # any copy will do


def test_what_kaggle_gave_without_a_head_does_not_do_for_logits(places):
    places.answers["bucket"] = 403
    fetch(head=False)
    with pytest.raises(WeightsUnreachable):
        fetch(offline=True)


def test_who_needs_the_arrays_in_a_file_is_not_given_a_module(places):
    places.answers["bucket"] = 403
    module = fetch()
    path = fetch(modules=False)
    assert path.endswith("model.safetensors")
    assert os.path.isdir(module)
    assert places.asked[-1].startswith("hf ")


def test_an_archive_of_something_else_is_not_taken(places, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("moved")
    places.files[HEAD_ON_KAGGLE] = archive(tmp_path / "other")
    places.answers["bucket"] = 403
    assert fetch().endswith("model.safetensors")
    assert len(left(tmp_path)) == 1


def test_a_disk_that_is_full_while_unpacking_is_not_blamed_on_the_place(places, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    places.answers["bucket"] = 403
    monkeypatch.setattr("bit.download.tarfile.TarFile.extractall", full)
    with pytest.raises(OSError, match="No space") as raised:
        fetch()
    assert not isinstance(raised.value, WeightsUnreachable)
    assert places.places == ["bucket", "kaggle"]
    assert left(tmp_path) == []


def test_hugging_face_is_last(places, tmp_path, caplog):
    places.answers = {"bucket": 403, "kaggle": b"<html>Robot?</html>"}
    path = fetch()
    assert content(path) == places.files[ON_HF]
    assert path == str(tmp_path / "cache" / ON_HF.removeprefix("https://"))
    assert places.places == ["bucket", "kaggle", "hf"]
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


SOMETHING_ELSE = {
    "an error": b'{"error":"quota exceeded"}',
    "nothing": b"",
    "another member": hollow("r50x1"),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n",
}


@pytest.mark.parametrize("place", ["bucket", "kaggle", "hf"])
@pytest.mark.parametrize("sent", SOMETHING_ELSE.values(), ids=SOMETHING_ELSE)
def test_something_else_is_not_kept_and_the_next_place_is_asked(places, tmp_path, monkeypatch, place, sent):
    others = [name for name in ("bucket", "kaggle", "hf") if name != place]
    places.answers = dict.fromkeys(others, 404)
    right, url = dict(places.files), {"bucket": R101X3, "kaggle": HEAD_ON_KAGGLE, "hf": ON_HF}[place]
    places.files[url] = sent
    with pytest.raises(WeightsUnreachable) as raised:
        fetch()
    why = {"bucket": "something else", "kaggle": "cannot be unpacked", "hf": "something else"}[place]
    assert why in str(raised.value)
    assert places.places == ["bucket", "kaggle", "hf"]
    assert left(tmp_path) == []
    places.files, places.answers = {**right, url: sent}, {}
    path = fetch()
    assert places.asked[-1].split()[0] == ("kaggle" if place == "bucket" else "bucket")
    places.answers = dict.fromkeys(("bucket", "kaggle", "hf"), 404)
    assert fetch() == path


@pytest.mark.parametrize("place", ["bucket", "kaggle", "hf"])
def test_a_damaged_file_is_not_taken_and_the_next_place_is_asked(places, tmp_path, monkeypatch, place):
    others = [name for name in ("bucket", "kaggle", "hf") if name != place]
    places.answers = dict.fromkeys(others, 404)
    send = places.RequestHandlerClass._send

    def damaged(handler, data, at):
        handler.wfile.write = lambda body, write=handler.wfile.write: write(
            body if body.startswith(b"HTTP/") else b"x" + body[1:]
        )
        send(handler, data, at)

    monkeypatch.setattr(places.RequestHandlerClass, "_send", damaged)
    with pytest.raises(WeightsUnreachable, match=r"the (md5|sha256) of the download is"):
        fetch()
    assert places.places == ["bucket", "kaggle", "hf"]
    assert left(tmp_path) == []


def test_if_all_fail_one_error_has_the_three_causes_and_what_to_do(places, tmp_path, capsys):
    places.answers = {"bucket": 503, "kaggle": 403, "hf": b"<html>captive portal</html>"}
    assert download(["--model=bit/m-r101x3"]) == 3
    error = capsys.readouterr().err
    bucket, kaggle, hf, remedy = error.strip().splitlines()[-4:]
    assert re.search(r"Google's bucket \(http://127.*/BiT-M-R101x3.npz\): HTTP 503", bucket)
    assert re.search(
        r"Kaggle \(http.*m-r101x3-imagenet21k-classification/1/download\): HTTP 403 .*some clients only",
        kaggle,
    )
    assert re.search(r"Hugging Face \(http.*model.safetensors\): .* web page", hf)
    assert "python -m bit.download --model=bit/m-r101x3" in remedy
    assert f"{tmp_path / 'cache'} here ($BIT_CACHE_DIR" in remedy
    assert "--model=untrained/r101x3" in remedy
    assert left(tmp_path) == []


def test_a_full_disk_is_not_blamed_on_the_place(places, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bit.transfer.os.replace", full)
    with pytest.raises(OSError, match="No space") as raised:
        fetch()
    assert not isinstance(raised.value, WeightsUnreachable)
    assert places.places == ["bucket"]


def no_network(*_, **__):
    raise AssertionError("the network was asked")


def test_offline_asks_neither_the_network_nor_name_servers(places, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(AssertionError):
        fetch()  # the patch works
    with pytest.raises(WeightsUnreachable, match="--offline asks no other; looked for:") as raised:
        fetch(offline=True)
    text = str(raised.value)
    bucket = tmp_path / "cache" / "storage.googleapis.com" / "bit_models" / "BiT-M-R101x3.npz"
    assert f"\n  {bucket}\n" in text
    assert "python -m bit.download --model=bit/m-r101x3" in text
    for name in (
        "https://host/m.npz",
        "https://tfhub.dev/google/x/1",
        "kaggle://a/b/keras/c/1",
        "hf://timm/resnetv2_50x1_bit.goog_in21k",
    ):
        with pytest.raises(WeightsUnreachable, match="looked for"):
            local_path(resolve(name), offline=True)
    bucket.parent.mkdir(parents=True, exist_ok=True)
    bucket.write_bytes(b"put there by hand")
    assert fetch(offline=True) == str(bucket)
    assert download(["--model=google/bit/tensorFlow2/m-r101x3/1", "--offline"]) == 0
    assert places.asked == []


def test_a_download_that_was_killed_is_continued(places, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "r101x3", REAL)
    places.files[R101X3] = WHOLE
    slow = (
        "import time, bit.transfer as t, bit.download as d; t._PIECE_BYTES = 1 << 20; stream = open\n"
        "import builtins; real = builtins.open\n"
        "class Slow:\n"
        "    def __init__(self, file): self.file = file\n"
        "    def __getattr__(self, name): return getattr(self.file, name)\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): self.file.close()\n"
        "    def write(self, data): self.file.write(data); self.file.flush(); time.sleep(0.1)\n"
        "t.open = lambda path, *a, **k: Slow(real(path, *a, **k)) if '.partial.n' in str(path) else real(path, *a, **k)\n"
        "d.main(['--model=bit/m-r101x3'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], cwd=helpers.REPO, stderr=subprocess.DEVNULL)
    partial = tmp_path / "cache" / "storage.googleapis.com" / "bit_models" / "BiT-M-R101x3.partial.npz"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 3 << 20) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had = partial.stat().st_size
    assert 3 << 20 < had < len(WHOLE)
    path = fetch()
    assert content(path) == places.files[R101X3]
    assert places.asked[1:] == [f"bucket BiT-M-R101x3.npz bytes={had}-"]
    assert left(tmp_path) == [path]


def test_what_another_version_of_the_file_left_is_not_continued(places, tmp_path):
    places.cuts = [10_000] * 4
    places.answers = {"kaggle": 404, "hf": 404}
    with pytest.raises(WeightsUnreachable, match="the connection broke 4 times"):
        fetch()
    assert len(left(tmp_path)) == 2  # the part, and what it is a part of
    places.files[R101X3] = hollow("tiny", 10, 100_000)
    assert content(fetch()) == places.files[R101X3]
    assert len(left(tmp_path)) == 1


def test_processes_that_want_the_same_at_once_fetch_it_once(places):
    places.files[R101X3] = WHOLE
    command = [sys.executable, "-m", "bit.download", "--model=bit/m-r101x3"]
    with ThreadPoolExecutor(3) as threads:
        runs = threads.map(lambda _: subprocess.run(command, cwd=helpers.REPO, capture_output=True), range(3))
        assert [run.returncode for run in runs] == [0, 0, 0]
    assert places.asked == ["bucket BiT-M-R101x3.npz"]
