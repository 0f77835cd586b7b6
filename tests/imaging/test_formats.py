"""The list of formats, compared with the samples, the documents and the first bytes of pictures."""

import importlib
import re
import subprocess
import sys

import pytest

from tests.helpers import REPO
from tests.imaging.samples import ONE_OF_EACH, REFUSED
from transforms.errors import ItemError
from transforms.imaging.formats import FORMATS, HEAD_BYTES, PACKAGES, SUFFIXES, format_of, is_image

NAMES = [image_format.name for image_format in FORMATS]
NO_PICTURES = ("no bytes", "text", "html", "json", "zip", "gzip", "start of a jpeg", "riff of sound", "mp4")
NO_PICTURES += ("pdf", "postscript", "netpbm")  # the last begins as a text may


def test_each_format_has_a_sample_and_each_sample_is_identified_by_its_first_bytes():
    assert {format_of(data[:HEAD_BYTES]).name for data in ONE_OF_EACH.values()} == set(NAMES)
    assert all(is_image(data[:HEAD_BYTES]) for data in ONE_OF_EACH.values())


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_of_a_kind_that_is_not_read_is_a_picture(name):
    assert is_image(REFUSED[name][0][:HEAD_BYTES]) == (name not in NO_PICTURES)


def test_names_and_suffixes_are_unique_and_as_they_are_compared():
    assert len(set(NAMES)) == len(NAMES)
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(re.fullmatch(r"\.[a-z0-9]+", suffix) for suffix in SUFFIXES)
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng"} <= set(SUFFIXES)
    assert {".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic"} <= set(SUFFIXES)


def test_the_documents_table_has_a_row_for_each_format_and_no_other():
    table, _ = (
        (REPO / "docs/images.md")
        .read_text()
        .split("| format | read | not read |\n|---|---|---|\n")[1]
        .split("\n\n", 1)
    )
    assert [row.split(" | ")[0].strip("| ").upper() for row in table.splitlines()] == NAMES


def test_the_readme_names_each_format():
    (named,) = re.findall(r"https://`, as ([^.]+)\.", (REPO / "README.md").read_text())
    assert [name.upper() for name in re.split(", | or ", named)] == NAMES


def test_receipts_name_the_packages_that_decide_pixels():
    assert PACKAGES == ("opencv-python-headless", "pillow", "pillow-heif", "simplejpeg")


@pytest.mark.parametrize("image_format", FORMATS, ids=lambda image_format: image_format.name)
def test_a_head_without_a_picture_behind_it_is_refused(image_format):
    """A file that looks like a format only by its first bytes is refused for its structure, not by chance."""
    head = next(data for data in ONE_OF_EACH.values() if format_of(data) is image_format)[:16]
    with pytest.raises(ItemError) as caught:
        image_format.reduce(head)
    assert caught.value.code in ("truncated", "corrupt")


def test_imaging_imports_neither_beam_nor_tensorflow():
    names = [f"transforms.imaging.{path.stem}" for path in (REPO / "transforms/imaging").glob("[a-z]*.py")]
    assert importlib.import_module("transforms.imaging.formats").__name__ in names
    program = f"import sys, importlib; [importlib.import_module(n) for n in {names!r}]; "
    program += "print([n for n in ('apache_beam', 'tensorflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
