"""What kind of file some bytes are, by their first bytes only: names and content types lie."""

from __future__ import annotations

import re

from transforms.errors import ItemError

# What `images.decode` reads, under Pillow's names.
_READABLE = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("WEBP", rb"RIFF....WEBP"),
    ("GIF", rb"GIF8[79]a"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"),
)
_UNSUPPORTED = (
    ("HEIC", rb"....ftyp(hei|hev|mif1|msf1)"),
    ("AVIF", rb"....ftypavi[fs]"),
    ("MP4 or QuickTime video", rb"....ftyp"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("SVG", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--[^>]*>\s*)?<(!DOCTYPE )?svg"),
    ("PDF", rb"%PDF-"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("Photoshop document", rb"8BPS"),
    ("Windows icon", rb"\x00\x00[\x01\x02]\x00[^\x00]\x00"),
    ("Matroska or WebM video", rb"\x1a\x45\xdf\xa3"),
    ("AVI video", rb"RIFF....AVI "),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    ("DirectDraw surface", rb"DDS "),
    ("Netpbm", rb"P[1-7]\s"),
)
_NOT_IMAGES = (
    ("an HTML page", rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|body|script)"),
    ("XML", rb"(\xef\xbb\xbf)?\s*<\?xml"),
    ("JSON", rb"\s*[\[{]\s*[\"{\[\]}\d]"),
    ("a ZIP archive", rb"PK\x03\x04"),
    ("gzip data", rb"\x1f\x8b"),
)
_HEAD_BYTES = 512


def _compiled(magics: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    return tuple((name, re.compile(magic, re.DOTALL)) for name, magic in magics)


_READABLE_MAGICS, _UNSUPPORTED_MAGICS, _NOT_IMAGE_MAGICS = map(
    _compiled, (_READABLE, _UNSUPPORTED, _NOT_IMAGES)
)


def format_of(data: bytes) -> str:
    """The name of a readable format: 'JPEG', 'PNG', 'WEBP', 'GIF', 'TIFF' or 'BMP'.

    Raises:
      ItemError: empty, unsupported_format (a known image or video format), or not_image.
    """
    if not data:
        raise ItemError("empty", "zero bytes; the file is empty or was not fetched whole")
    head = data[:_HEAD_BYTES]
    for name, magic in _READABLE_MAGICS:
        if magic.match(head):
            return name
    for name, magic in _UNSUPPORTED_MAGICS:
        if magic.match(head):
            raise ItemError(
                "unsupported_format",
                f"{name} is not supported; convert it to JPEG, PNG, WebP, GIF, BMP or TIFF",
            )
    for name, magic in _NOT_IMAGE_MAGICS:
        if magic.match(head):
            raise ItemError("not_image", f"the bytes are {name}, not an image; check where the URI leads")
    raise ItemError(
        "not_image",
        f"no image format starts with {head[:8].hex(' ')}; check that the input holds whole image files",
    )


def is_image(head: bytes) -> bool:
    """Whether a file's first bytes are those of a still picture, be it one that `format_of` refuses by name."""
    pictures = (*_READABLE_MAGICS, *_UNSUPPORTED_MAGICS[:2], *_UNSUPPORTED_MAGICS[3:5])
    return any(magic.match(head) for _, magic in pictures)
