"""What kind of file some bytes are, by their first bytes only: names and content types lie."""

from __future__ import annotations

import re

from transforms.elements import ItemError

# Formats that `decode` reads, under Pillow's names: the whole of what Pillow may be asked to open.
_READABLE = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("TIFF", re.compile(rb"II[*+]\x00|MM\x00[*+]")),
    ("BMP", re.compile(rb"BM.{4}....[\x0a-\xff]\x00?.?.?", re.DOTALL)),
)
_UNSUPPORTED = (
    ("HEIC", re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
    ("MP4 or QuickTime video", re.compile(rb"....ftyp", re.DOTALL)),
    ("JPEG XL", re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    (
        "SVG",
        re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)", re.DOTALL),
    ),
    ("PDF", re.compile(rb"%PDF-")),
    ("PostScript", re.compile(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("Photoshop document", re.compile(rb"8BPS")),
    ("Windows icon", re.compile(rb"\x00\x00[\x01\x02]\x00[^\x00]\x00")),
    ("Matroska or WebM video", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("AVI video", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("OpenEXR", re.compile(rb"\x76\x2f\x31\x01")),
    ("Radiance HDR", re.compile(rb"#\?RADIANCE|#\?RGBE")),
    ("DirectDraw surface", re.compile(rb"DDS ")),
    ("Netpbm", re.compile(rb"P[1-7]\s")),
)
_NOT_IMAGES = (
    ("an HTML page", re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|script)", re.IGNORECASE)),
    ("XML", re.compile(rb"(\xef\xbb\xbf)?\s*<\?xml")),
    ("JSON", re.compile(rb"\s*[\[{]\s*[\"{\[\]}\d]")),
    ("a ZIP archive", re.compile(rb"PK\x03\x04")),
    ("gzip data", re.compile(rb"\x1f\x8b")),
)
_HEAD_BYTES = 1024


def format_of(data: bytes) -> str:
    """The name of a readable format: 'JPEG', 'PNG', 'WEBP', 'GIF', 'TIFF' or 'BMP'.

    Raises:
      ItemError: empty, unsupported_format (a known image or video format), or not_image.
    """
    if not data:
        raise ItemError("empty", "zero bytes; the file is empty or was not fetched whole")
    head = bytes(data[:_HEAD_BYTES])
    for name, magic in _READABLE:
        if magic.match(head):
            return name
    for name, magic in _UNSUPPORTED:
        if magic.match(head):
            raise ItemError(
                "unsupported_format",
                f"{name} is not supported; convert it to JPEG, PNG, WebP, GIF, BMP or TIFF",
            )
    for name, magic in _NOT_IMAGES:
        if magic.match(head):
            raise ItemError("not_image", f"the bytes are {name}, not an image; check where the URI leads")
    raise ItemError(
        "not_image",
        f"no image format starts with the bytes {head[:8].hex(' ')}; check that the feature or URI holds an image file",
    )
