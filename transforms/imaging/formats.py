"""The image formats that are read. A new one is a module like `png`, imported and named here."""

from __future__ import annotations

from transforms.errors import ItemError
from transforms.imaging import avif, bmp, gif, jpeg, png, refused, tiff, webp
from transforms.imaging.base import Format

FORMATS: tuple[Format, ...] = (
    jpeg.FORMAT,
    png.FORMAT,
    webp.FORMAT,
    gif.FORMAT,
    bmp.FORMAT,
    tiff.FORMAT,
    avif.FORMAT,
)

# Of file names, in lower case, with the dot.
SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)
# The distributions whose versions decide the pixels.
PACKAGES = tuple(sorted({package for known in FORMATS for package in known.packages}))
HEAD_BYTES = 512  # how many first bytes of a file tell what it is


def format_of(data: bytes) -> Format:
    """The format of an image file, by its first bytes only: names and content types lie.

    Raises:
      ItemError: empty, unsupported_format (a known image or video format), or not_image.
    """
    if not data:
        raise ItemError("empty", "zero bytes; the file is empty or was not fetched whole")
    head = data[:HEAD_BYTES]
    for known in FORMATS:
        if known.magic.match(head):
            return known
    for name, magic in (*refused.PICTURES, *refused.DOCUMENTS_AND_VIDEOS):
        if magic.match(head):
            raise ItemError(
                "unsupported_format",
                f"{name} is not supported; convert it to JPEG, PNG, WebP, GIF, BMP or TIFF",
            )
    for name, magic in refused.NOT_IMAGES:
        if magic.match(head):
            raise ItemError("not_image", f"the bytes are {name}, not an image; check where the URI leads")
    raise ItemError(
        "not_image",
        f"no image format starts with {head[:8].hex(' ')}; check that the input holds whole image files",
    )


def is_image(first_bytes: bytes) -> bool:
    """Whether a file that begins so, with `HEAD_BYTES` or all of it, is a picture, also of a kind that is not read."""
    magics = (*(known.magic for known in FORMATS), *(magic for _, magic in refused.PICTURES))
    return any(magic.match(first_bytes) for magic in magics)
