"""The image formats that are read. A new one is a module like `png`, imported and named here."""

from __future__ import annotations

from transforms.errors import ItemError
from transforms.imaging import avif, bmp, gif, heic, jpeg, png, refused, tiff, webp
from transforms.imaging.base import Format

FORMATS: tuple[Format, ...] = (
    jpeg.FORMAT,
    png.FORMAT,
    webp.FORMAT,
    gif.FORMAT,
    bmp.FORMAT,
    tiff.FORMAT,
    avif.FORMAT,
    heic.FORMAT,
)

# Of file names, in lower case, with the dot.
SUFFIXES = tuple(suffix for image_format in FORMATS for suffix in image_format.suffixes)
# The distributions whose versions determine the pixels.
PACKAGES = tuple(sorted({package for image_format in FORMATS for package in image_format.packages}))
HEAD_BYTES = 512  # of a file: enough to identify its format


def format_of(data: bytes) -> Format:
    """The format of an image file, by its first bytes alone: names and content types can be wrong.

    Raises:
      ItemError: empty, unsupported_format (a known image or video format), or not_image.
    """
    if not data:
        raise ItemError("empty", "zero bytes; the file is empty or was not fetched whole")
    head = data[:HEAD_BYTES]
    for image_format in FORMATS:
        if image_format.magic.match(head):
            return image_format
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
    """Whether a file with these first `HEAD_BYTES` bytes is a picture, in a format that is read or not."""
    magics = (*(image_format.magic for image_format in FORMATS), *(magic for _, magic in refused.PICTURES))
    return any(magic.match(first_bytes) for magic in magics)
