"""Files that cannot be read are refused by name, and those too large before they are decoded."""

import bz2
import gzip
import lzma
import re

import pytest
from backports import zstd

from tests.helpers import REPO
from tests.imaging.pictures import SIDE, decoded, refusal
from tests.imaging.samples import ONE_OF_EACH, REFUSED


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_name(data, code):
    assert refusal(data)[0] == code


@pytest.mark.parametrize("name", ["HEIF", "JPEG XL", "JPEG 2000", "SVG", "PDF", "PostScript"])
def test_a_known_format_is_named(name):
    sample = {"JPEG XL": "jpeg xl", "JPEG 2000": "jpeg 2000"}.get(name, name.lower())

    assert refusal(REFUSED[sample][0])[1].startswith(f"{name} is not supported; convert it to JPEG")


@pytest.mark.parametrize(
    ("pack", "name"),
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz"), (zstd.compress, "zstd")],
)
def test_a_compressed_picture_is_named_by_its_compression(pack, name):
    code, message = refusal(pack(next(iter(ONE_OF_EACH.values()))))
    assert (code, f"{name} data" in message) == ("not_image", True)


@pytest.mark.parametrize("data", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_cut_file_is_truncated(data, kept):
    assert refusal(data[: int(kept * len(data))])[0] == "truncated"


@pytest.mark.parametrize("data", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_size_is_checked_before_decoding(data):
    assert decoded(data, max_pixels=61 * 47).shape == (SIDE, SIDE, 3)
    code, message = refusal(data, max_pixels=61 * 47 - 1)
    assert code == "too_many_pixels"
    assert "61 x 47 pixels is over the limit of 2866 pixels" in message
    assert "--max_pixels" in message


def test_every_code_is_documented():
    text = "".join(path.read_text() for path in (REPO / "transforms/imaging").glob("*.py"))
    raised = set(re.findall(r'ItemError\(\s*"(\w+)"', text))
    deaths = (REPO / "transforms/feeding/deaths.py").read_text()
    raised.update(re.findall(r'\bcode = "(\w+)"', deaths))
    _, codes = (REPO / "docs/images.md").read_text().split("## Codes")

    assert raised == set(re.findall(r"^\| `(\w+)` \|", codes, re.MULTILINE))
    assert len(raised) > 5
