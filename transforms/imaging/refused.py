"""Formats that are not read but recognized by their first bytes, so that the error can name them."""

from __future__ import annotations

import re


def _compiled(*magics: tuple[str, bytes]) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    return tuple((name, re.compile(magic, re.DOTALL)) for name, magic in magics)


PICTURES = _compiled(
    ("HEIF", rb"....ftyp(hei|hev|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("SVG", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--[^>]*>\s*)?<(!DOCTYPE )?svg"),
    ("Photoshop document", rb"8BPS"),
    ("Windows icon", rb"\x00\x00[\x01\x02]\x00[^\x00]\x00"),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    ("DirectDraw surface", rb"DDS "),
)
# Some of these patterns also match pictures, so they are compared after those.
DOCUMENTS_AND_VIDEOS = _compiled(
    ("Netpbm", rb"P[1-7]\s"),  # as any text may begin
    ("MP4 or QuickTime video", rb"....ftyp"),
    ("PDF", rb"%PDF-"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("Matroska or WebM video", rb"\x1a\x45\xdf\xa3"),
    ("AVI video", rb"RIFF....AVI "),
)
NOT_IMAGES = _compiled(
    ("an HTML page", rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|body|script)"),
    ("XML", rb"(\xef\xbb\xbf)?\s*<\?xml"),
    ("JSON", rb"\s*[\[{]\s*[\"{\[\]}\d]"),
    ("a ZIP archive", rb"PK\x03\x04"),
    ("gzip data", rb"\x1f\x8b"),
    ("bzip2 data", rb"BZh[1-9]1AY&SY"),
    ("xz data", rb"\xfd7zXZ\x00"),
    ("zstd data", rb"\x28\xb5\x2f\xfd"),
)
