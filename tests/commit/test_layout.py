"""The names of a job's files, and which paths are recognized as its own."""

import pytest

from transforms.commit import layout
from transforms.commit.layout import Layout

LABEL = "00001-of-00003"
HEX = "0123456789abcdef0123456789abcdef"
OURS = [
    f"features-{LABEL}.tfrecord",
    f"failures-{LABEL}.jsonl",
    "features-123456-of-123457.tfrecord",
    f"receipts/{LABEL}.json",
    f"receipts/{LABEL}.json.{HEX}.tmp",
    "manifest.json",
    f"manifest.json.{HEX}.tmp",
    "inputs.txt",
    ".tmp/request.json",
    ".tmp/running.json",
    "request.json",
    f".tmp/{LABEL}-{HEX}.tfrecord",
]
OF_OTHERS = [
    "features.tfrecord",
    "features-a-of-b.tfrecord",
    f"features-{LABEL}.tfrecord.gz",
    f"old/features-{LABEL}.tfrecord",
    f"my-features-{LABEL}.tfrecord",
    "receipts/notes.txt",
    "receipts.json",
    f"notes.txt.{HEX}.tmp",
    "manifest.json.tmp",
    ".tmpfile",
]


@pytest.mark.parametrize("name", OURS)
def test_what_a_job_writes_is_known_by_its_name(name):
    assert layout.folder_of(name) == "."


@pytest.mark.parametrize("name", OF_OTHERS)
def test_what_others_write_is_not_taken_for_a_jobs(name):
    assert layout.folder_of(name) != "."


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("out/manifest.json", "out"),
        ("/manifest.json", "/"),
        ("manifest.json", "."),
        (f"gs://bucket/out/receipts/{LABEL}.json", "gs://bucket/out"),
        ("a\nb/inputs.txt", "a\nb"),
        (f"out/.tmp/manifest.json.{HEX}.tmp", "out"),
        ("photos/1.jpg", None),
    ],
)
def test_a_path_tells_the_output_folder_that_it_lies_in(path, folder):
    assert layout.folder_of(path) == folder


def test_every_path_below_the_folder_is_one_of_ours():
    paths = Layout("out")
    attempt = layout.new_attempt(LABEL, "base")
    written = [
        *(paths.features(LABEL), paths.failures(LABEL), paths.receipt(LABEL), paths.manifest, paths.listing),
        *(paths.request, paths.running, paths.retrying, paths.claim(LABEL, 0)),
        *(paths.final_receipt(attempt), paths.marked_receipt(attempt)),
        paths.unfinished(attempt, layout.features_name(LABEL)),
    ]
    for path in written:
        assert layout.folder_of(path.removeprefix("out/")) == ".", path


def test_only_features_and_ledgers_are_data():
    assert [name for name in OURS if layout.is_data(name)] == OURS[:3]


def test_a_receipt_tells_its_label():
    assert layout.label_of(f"receipts/{LABEL}.json") == LABEL
    assert layout.label_of(Layout("gs://bucket/out").receipt(LABEL)) == LABEL
    assert layout.label_of(f"receipts/{LABEL}.json.{HEX}.tmp") == ""
    assert layout.label_of("manifest.json") == ""


@pytest.mark.parametrize(("base", "stem"), [("", LABEL), ("a1b2", f"retry-{LABEL}-a1b2")])
def test_attempts_at_one_commit_begin_alike_and_never_meet(base, stem):
    one, other = layout.new_attempt(LABEL, base), layout.new_attempt(LABEL, base)
    assert one != other
    assert layout.stem_of(one) == layout.stem_of(other) == stem
