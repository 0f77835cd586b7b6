"""`extract`: the vectors of images given from Python are those that the job writes, and none is lost."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import extract
from tests import helpers
from tests.http_server import HttpServer

MODEL = {"model": "untrained/tiny", "batch_size": 4, "image_size": helpers.SIDE}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Six JPEGs and a PNG with alpha."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(6):
        (folder / f"{seed}.jpg").write_bytes(helpers.encoded(seed, width=90 + seed))
    pixels = np.dstack([helpers.picture(7), np.arange(48 * 40).reshape(40, 48) % 256]).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "7.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def vectors(files):
    extracted = extract(files, **MODEL)
    assert extracted.failures == ()
    return extracted.vectors


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_vectors_are_the_jobs_to_the_bit(files, tmp_path, precision):
    helpers.job(
        f"--input={files[0].parent}",
        "--batch_size=4",
        f"--precision={precision}",
        output=tmp_path / "out",
    )
    expected = np.stack([record["embedding"] for record in helpers.read_all(tmp_path / "out")])
    vectors, failures = extract(files, **MODEL, precision=precision)
    assert failures == ()
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, expected)
    assert len(np.unique(vectors, axis=0)) == len(files)


@pytest.mark.parametrize(
    "form",
    [
        str,
        lambda file: f"file://{file}",
        lambda file: file.read_bytes(),
        lambda file: memoryview(file.read_bytes()),
        Image.open,
        lambda file: np.asarray(Image.open(file)),
    ],
    ids=["text", "URI", "bytes", "view", "PIL", "array"],
)
def test_an_image_may_be_given_in_any_form(files, vectors, form):
    assert np.array_equal(extract(map(form, files), **MODEL).vectors, vectors)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "I;16", "I;16B", "F"])
def test_a_pil_image_may_have_any_mode(mode):
    image = (
        Image.fromarray(helpers.picture(3))
        .convert("L" if mode in ("I;16", "I;16B", "F") else "RGB")
        .convert(mode)
    )
    extracted = extract([image], **MODEL)
    assert extracted.failures == ()
    assert np.isfinite(extracted.vectors).all()


def test_grey_arrays_may_have_an_axis_of_channels():
    grey = helpers.picture(3)[:, :, 0]
    one, other = extract([grey, grey[:, :, None]], **MODEL).vectors
    assert np.array_equal(one, other)


def test_what_fails_has_a_row_and_a_failure(files, vectors):
    images = [files[0], b"no image", "/there/is/none.jpg", files[1], "ftp://host/x.jpg"]
    extracted = extract(iter(images), **MODEL)
    assert [(failure.position, failure.code) for failure in extracted.failures] == [
        (1, "not_image"),
        (2, "not_found"),
        (4, "scheme_not_allowed"),
    ]
    assert np.isnan(extracted.vectors[[1, 2, 4]]).all()
    assert np.array_equal(extracted.vectors[[0, 3]], vectors[:2])


def test_all_may_fail_and_none_may_be_given(vectors):
    extracted = extract([b"", b"no image"], **MODEL)
    assert [failure.code for failure in extracted.failures] == ["empty", "not_image"]
    assert extracted.vectors.shape == (2, vectors.shape[1])
    assert extract([], **MODEL).vectors.shape == (0, vectors.shape[1])


def test_urls_are_fetched_as_the_job_does(files, vectors):
    with HttpServer() as server:
        url = server.url("/file/0.jpg")
        server.files["/file/0.jpg"] = files[0].read_bytes()
        assert extract([url], **MODEL).failures[0].code == "blocked_address"
        fetched = extract([url], **MODEL, allow_private_networks=["127.0.0.0/8"])
    assert np.array_equal(fetched.vectors, vectors[:1])


def test_an_array_of_pictures_is_several_images():
    pictures = np.stack([helpers.picture(seed) for seed in range(5)])
    together = extract(pictures, **MODEL).vectors
    assert np.array_equal(together, extract(list(pictures), **MODEL).vectors)


def test_threads_share_a_model(files, vectors):
    results = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: extract(files, **MODEL).vectors}))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[n], vectors) for n in range(3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.jpg", "for a single one"),
        ([7], "image 0 is of type int"),
        ([b"", np.zeros((4, 4, 3), np.float32)], "image 1 is an array of float32"),
        ([np.zeros((4, 4, 2), np.uint8)], "with 1, 3"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(TypeError, match=message):
        extract(images, **MODEL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "bit/m-r101x4"}, "did you mean"),
        ({"output": "top_k"}, "choose 'embedding'"),
        ({"output": "logits"}, "has no head"),
        ({"batch_size": 0}, "not a positive number"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        extract([], **{**MODEL, **flags})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"precisoin": "bfloat16"}, "no argument 'precisoin'; did you mean precision?"),
        ({"outputs": "logits"}, "no argument 'outputs'; did you mean output?"),
        ({"decode_threads": 2}, "it takes .*, decode_processes, "),
        ({"input": "x"}, "no argument 'input'; it takes output, model, offline, .*batch_size, .*, timeout, "),
        ({"overwrite": True}, "no argument 'overwrite'"),
        ({"image_feature": "x"}, "no argument 'image_feature'"),
        ({"top_k": 3}, "no argument 'top_k'"),
        ({"runner": "FlinkRunner"}, "no argument 'runner'"),
    ],
)
def test_flags_that_mean_nothing_here_are_refused(flags, message):
    with pytest.raises(TypeError, match=message):
        extract([], **{**MODEL, **flags})


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (lambda: Image.open(io.BytesIO(helpers.encoded(1)[:-200])), "truncated"),
        (lambda: Image.open(io.BytesIO(helpers.encoded(1, "PNG")[:-200])), "truncated"),
        (lambda: Image.open(io.BytesIO(flipped(helpers.encoded(1, "WEBP")))), "corrupt"),
        (lambda: Image.new("RGB", (0, 4)), "corrupt"),
        (lambda: np.zeros((0, 4, 3), np.uint8), "corrupt"),
        (lambda: np.zeros((4, 0), np.uint8), "corrupt"),
        (lambda: Image.new("L", (100, 101)), "too_many_pixels"),
        (lambda: np.zeros((101, 100, 3), np.uint8), "too_many_pixels"),
    ],
)
def test_a_broken_picture_costs_only_itself(files, vectors, broken, code):
    extracted = extract([files[0], broken(), files[1]], **MODEL, max_pixels=10_000)
    (failure,) = extracted.failures
    assert (failure.position, failure.key, failure.stage, failure.code) == (1, b"#1", "decode", code)
    assert np.isnan(extracted.vectors[1]).all()
    assert np.array_equal(extracted.vectors[[0, 2]], vectors[:2])


def closed(data=None):
    """A PIL image that was closed; of an array, or of a file's bytes, which were not read before."""
    image = Image.new("RGB", (4, 4)) if data is None else Image.open(io.BytesIO(data))
    image.close()
    return image


def left(path):
    """A PIL image whose `with` has ended."""
    with Image.open(path) as image:
        return image


def test_an_image_without_pixels_is_not_to_be_copied_again(files):
    stream = io.BytesIO(helpers.encoded(1))
    of_closed_file = Image.open(stream)
    stream.close()
    images = [closed(), closed(helpers.encoded(1)), left(files[0]), of_closed_file]
    empty = [Image.new("RGB", (0, 4)), np.zeros((0, 4, 3), np.uint8)]
    messages = [failure.message for failure in extract([*images, *empty], **MODEL).failures]
    assert messages == [
        *["the PIL image is closed and has no pixels; pass it while it is open, or pass its path"] * 4,
        "the PIL image has no pixels: it is 0 wide and 4 high; look where it is made",
        "the array has no pixels: it is 4 wide and 0 high; look where it is made",
    ]


def flipped(data):
    """Bytes of a file of which only the header is right."""
    return data[:40] + bytes(byte ^ 0x5A for byte in data[40:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_a_pil_image_is_turned_as_its_file_is(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{kind.lower()}"
    Image.fromarray(helpers.picture(3)).save(path, kind, exif=exif)
    file, opened = extract([path, Image.open(path)], **MODEL, exif_orientation="apply").vectors
    assert np.array_equal(opened, file)
    if kind != "TIFF":  # which PIL itself turns
        as_stored = extract([path, Image.open(path)], **MODEL, exif_orientation="ignore").vectors
        assert np.array_equal(*as_stored)
        assert not np.array_equal(as_stored[0], file)


def test_a_pil_image_has_the_colours_of_its_file(tmp_path):
    path = tmp_path / "ink.jpg"
    Image.fromarray(helpers.picture(3)).convert("CMYK").save(path)
    file, opened = extract([path, Image.open(path)], **MODEL).vectors
    assert np.array_equal(opened, file)


def test_a_batch_in_the_middle_may_fail_whole(files, vectors):
    images = [*files[:4], *[b"no image"] * 4, *files[4:]]
    extracted = extract(images, **MODEL)
    assert len(extracted.failures) == 4
    assert np.array_equal(np.delete(extracted.vectors, range(4, 8), axis=0), vectors)


def test_a_pil_image_of_16_bits_is_treated_as_its_png(tmp_path):
    pixels = (np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 30).astype(np.uint16)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.array_equal(extract([image], **MODEL).vectors, extract([buffer.getvalue()], **MODEL).vectors)


def test_importing_it_brings_neither_beam_nor_tensorflow_and_prints_nothing():
    program = (
        "import sys; from pipeline import extract; "
        "print([name for name in ('apache_beam', 'tensorflow', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(helpers.REPO), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_fork_of_a_process_that_has_a_model_says_so(files, vectors):
    """Instead of waiting for threads that a fork does not have."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            extract(files[:1], **MODEL)
        except RuntimeError as error:
            code = 0 if 'get_context("spawn")' in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(extract(files[:1], **MODEL).vectors, vectors[:1])
