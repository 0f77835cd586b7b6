"""What each failure code means, and what to do about it, in one line each; docs/failures.md has the codes."""

from __future__ import annotations

REMEDIES: dict[str, tuple[str, str]] = {
    # read
    "damaged_record": ("the file has damaged bytes there", "copy the input file again from its origin"),
    "bad_example": ("the record is not a tf.Example", "check what wrote the file"),
    "missing_feature": (
        "the record has no image or no key under the name asked for",
        "check --image_feature and --key_feature",
    ),
    "bad_row": ("the row is malformed or has no URI", "mend the row, or name another --uri_column"),
    # fetch
    "bad_uri": ("not a URL, object or path that can exist", "correct it in the list"),
    "scheme_not_allowed": ("its scheme is not allowed", "allow it with --uri_schemes, if you trust the list"),
    "not_found": ("there is no such file or object any more", "drop it from the list, or restore it"),
    "forbidden": ("no permission to read it", "give the workers that permission, then --retry_failures"),
    "not_a_file": ("a folder, pipe or device", "name the files in it"),
    "read_error": ("the file system failed", "check the disk or the mount, then --retry_failures"),
    "dns": ("the host's name has no address", "drop dead hosts; if all fail, check the workers' resolver"),
    "blocked_address": (
        "the host leads to an address that is not public",
        "allow your own network with --allow_private_networks",
    ),
    "connect": ("the host refused or dropped the connection", "--retry_failures later"),
    "tls": ("the host's certificate or handshake failed", "drop the host, or --retry_failures later"),
    "timeout": (
        "the answer took too long",
        "--retry_failures, with a longer --timeout or fewer --fetch_threads",
    ),
    "http_4xx": ("the host refuses the request", "drop dead links; 403 and 429: fewer --per_host, later"),
    "http_5xx": ("the host failed", "--retry_failures later"),
    "host_busy": ("the host asked for a longer pause", "--retry_failures later, with a smaller --per_host"),
    "too_many_redirects": ("the link leads in circles", "drop it from the list"),
    "bad_response": (
        "the answer is not what HTTP allows",
        "drop it from the list, or --retry_failures later",
    ),
    "too_large": ("the file is larger than --max_bytes", "raise --max_bytes, then --retry_failures"),
    "opted_out": ("the publisher opts out of such use", "respect it, or see --no_opt_out"),
    # decode, and `truncated` of fetch
    "truncated": ("the file ends too early", "fetch or copy it again, then --retry_failures"),
    "empty": ("no bytes", "fetch or copy the image again"),
    "not_image": ("not an image: often an error page saved under an image's name", "fetch it again"),
    "unsupported_format": ("a format that is not read", "convert it to JPEG, PNG or WebP"),
    "corrupt": ("the image file is damaged", "fetch or copy it again"),
    "too_many_pixels": ("more than --max_pixels", "raise --max_pixels, or shrink the image"),
    "too_many_scans": ("a JPEG made to waste time", "convert it, or drop it"),
    "decode_timeout": ("decoding took too long", "raise --decode_timeout, or convert the image"),
    "decoder_crash": ("a decoder died on it", "convert the image, or drop it"),
    # infer
    "model_error": ("the model fails on this image alone", "look at the message; convert or drop the image"),
    "not_finite": ("the model's output is not finite", "try --precision=float32 with a new --output"),
}


def of(code: str) -> tuple[str, str]:
    """(meaning, what to do) of a code; http_404 has those of http_4xx."""
    return REMEDIES.get(code) or REMEDIES.get(f"{code[:6]}xx") or ("", "the message says what is known")
