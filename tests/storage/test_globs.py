"""Which objects of a bucket a pattern matches, as Beam's file systems match them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest

from transforms.storage import globs

WHEN = datetime(2024, 7, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
NAMES = ("a.jpg", "a/b.jpg", "a/b/c.jpg", "a/b.png", "a/[1].jpg", "a/1.jpg", "a/two\nlines.jpg", "a/", "b/")


@pytest.mark.parametrize(
    ("pattern", "prefix", "delimiter", "expected"),
    [
        ("*", "", "/", ["a.jpg"]),
        ("a/*.jpg", "a/", "/", ["a/b.jpg", "a/[1].jpg", "a/1.jpg", "a/two\nlines.jpg"]),
        ("a/**.jpg", "a/", "", ["a/b.jpg", "a/b/c.jpg", "a/[1].jpg", "a/1.jpg", "a/two\nlines.jpg"]),
        ("**", "", "", [name for name in NAMES if not name.endswith("/")]),
        ("*/b.*", "", "", ["a/b.jpg", "a/b.png"]),
        ("a?b.jpg", "a", "", ["a/b.jpg"]),  # Beam's ? matches a slash
        ("a/[0-9].jpg", "a/", "", ["a/1.jpg"]),
        ("a/[[]1].jpg", "a/[1].jpg", "", ["a/[1].jpg"]),
        ("a/[[]*].jpg", "a/[", "/", ["a/[1].jpg"]),
        ("a/[!0-9].jpg", "a/", "", ["a/b.jpg"]),
        ("a/", "a/", "/", ["a/b.jpg", "a/b.png", "a/[1].jpg", "a/1.jpg", "a/two\nlines.jpg"]),
        ("", "", "/", ["a.jpg"]),
    ],
)
def test_a_pattern_matches_what_it_matches_in_beam(pattern, prefix, delimiter, expected):
    glob = globs.parse(f"gs://bucket/{pattern}")
    assert (glob.bucket, glob.prefix, glob.delimiter) == ("bucket", prefix, delimiter)
    listed = [name for name in NAMES if name.startswith(glob.prefix)]
    if glob.delimiter:  # what a store then leaves out of its answer
        listed = [name for name in listed if "/" not in name[len(prefix) :]]
    files = glob.files((name, len(name), WHEN) for name in listed)
    assert [file.path for file in files] == [f"gs://bucket/{name}" for name in expected]
    assert [file.size_in_bytes for file in files] == [len(name) for name in expected]


def test_a_name_without_glob_characters_is_that_of_one_object():
    assert globs.parse("s3://bucket/a/b.jpg") == ("s3://bucket/", "bucket", "a/b.jpg", "", None)
    assert globs.parse("s3://bucket") == ("s3://bucket/", "bucket", "", "", None)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a[1].jpg", "[", "*?[]{}", "{0..3}", "a\nb[", "[[]", "[a-z]/**", "plain"])
def test_an_escaped_name_matches_itself_alone(name):
    pattern = globs.escape(name)
    assert globs.literal(pattern) == name
    assert globs.regex(pattern).match(name)
    assert globs.parse(f"s3://bucket/{pattern}") == ("s3://bucket/", "bucket", name, "", None)
    below = globs.parse(f"s3://bucket/{pattern}/**")
    assert (below.prefix, below.delimiter) == (f"{name}/", "")
    assert below.names.match(f"{name}/b.jpg")
    assert not below.names.match("a/b.jpg")


@pytest.mark.parametrize("pattern", ["*", "a?", "[a]", "a[[]*", "[[][a]"])
def test_a_glob_is_no_name(pattern):
    assert globs.literal(pattern) is None


def test_times_are_seconds_since_the_epoch_in_any_time_zone():
    local = WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    for updated in (WHEN, local):
        (file,) = globs.parse("gs://b/*").files([("a", 1, updated)])
        assert file.last_updated_in_seconds == 1719835200.25


@pytest.mark.parametrize("pattern", ["gs:///a", "gs://buck*/a", "gs://b[12]/a", "bucket/a", "gs://"])
def test_a_pattern_that_names_no_bucket_is_refused(pattern):
    with pytest.raises(ValueError, match=f"^{re.escape(pattern)} is not SCHEME://BUCKET/OBJECT"):
        globs.parse(pattern)
