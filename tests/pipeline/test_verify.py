"""`python -m pipeline.verify` reports every kind of damage, and nothing in a good output."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline import verify
from tests import helpers
from transforms.records import examples, features, tfrecord

SECOND = "features-00001-of-00003.tfrecord"
LEDGER = "failures-00001-of-00003.jsonl"
RECEIPT = "receipts/00001-of-00003.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The output of a job over three shards, the second of which has failures at 1 and 3, the last one nothing."""
    folder = tmp_path_factory.mktemp("verify")
    bad = helpers.example({"image/encoded": b"no image"})
    first = [helpers.image_example(seed) for seed in (0, 1)]
    second = [helpers.image_example(2), bad, helpers.image_example(3), bad, helpers.image_example(4)]
    for index, content in enumerate((first, second, [])):
        helpers.write_tfrecord(folder / "in" / f"in-{index}.tfrecord", content)
    flags = ["--pass_through=image/class/label", "--batch_size=2"]
    helpers.job(f"--input={folder}/in", *flags, output=folder / "out")
    return folder / "out"


@pytest.fixture
def output(good, tmp_path):
    return shutil.copytree(good, tmp_path / "out")


def framed(path):
    """The records of a TFRecord file as they are."""
    with open(path, "rb") as stream:
        return [record.data for record in tfrecord.read(stream)]


def rewrite(output, change):
    """Puts changed records in place of the second shard's, with a receipt that fits their bytes."""
    records = framed(output / SECOND)
    change(records)
    data = b"".join(map(tfrecord.frame, records))
    (output / SECOND).write_bytes(data)
    edit(output / RECEIPT, lambda content: content["files"][0].update(bytes=len(data), crc32c=crc(data)))
    size = sum(p.stat().st_size for p in output.glob("f*-of-*"))
    edit(output / "manifest.json", lambda content: content.update(bytes=size))


def crc(data):
    import google_crc32c

    return f"{google_crc32c.value(data):08x}"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edited(record, name, values, kind="bytes_list"):
    example = examples.parse(record)
    example.features.feature[name].Clear()
    getattr(example.features.feature[name], kind).value.extend(values)
    return example.SerializeToString(deterministic=True)


def problems(output, capsys, expect):
    capsys.readouterr()
    assert verify.main([str(output)]) == expect
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_good_output(output, capsys):
    before = helpers.contents(output)
    text = problems(output, capsys, verify.COMPLETE)
    assert text == f"{output}: 3 shards, 5 features, 2 failures: complete\n"
    (output / "notes.txt").write_text("the owner's")
    problems(output, capsys, verify.COMPLETE)
    (output / "notes.txt").unlink()
    assert helpers.contents(output) == before


def test_lists_and_image_files_and_the_command_itself(tmp_path, capsys):
    photos = [tmp_path / "photos" / f"{seed}.jpg" for seed in range(5)]
    photos[0].parent.mkdir()
    for seed, path in enumerate(photos):
        path.write_bytes(helpers.encoded(seed) if seed != 3 else b"no image")
    output = tmp_path / "out"
    helpers.job(f"--input={photos[0].parent}", "--images_per_shard=2", output=output)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.verify", str(output)],
        cwd=helpers.REPO,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{output}: 3 shards, 4 features, 1 failure: complete\n"
    listing = (output / "inputs.txt").read_text()
    (output / "inputs.txt").write_text(listing.replace("4.jpg", "7.jpg"))
    assert "inputs.txt is not the list" in problems(output, capsys, verify.BROKEN)


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_folder_that_is_no_output(tmp_path, capsys, what):
    path = tmp_path / "out"
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("x")
    assert "holds no output" in problems(path, capsys, verify.NO_OUTPUT)


def test_every_flipped_byte_and_every_cut_is_found(output, capsys):
    data = (output / SECOND).read_bytes()
    for at in range(0, len(data), 97):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        (output / SECOND).write_bytes(changed)
        assert SECOND in problems(output, capsys, verify.BROKEN), at
    for size in (0, 1, len(data) // 2, len(data) - 1):
        (output / SECOND).write_bytes(data[:size])
        assert f"{SECOND}: {size} bytes, the receipt says {len(data)}" in problems(
            output, capsys, verify.BROKEN
        )


FILE_CASES = {
    "features lost": (lambda o: (o / SECOND).unlink(), f"{SECOND}: is missing"),
    "ledger lost": (lambda o: (o / LEDGER).unlink(), f"{LEDGER}: is missing"),
    "receipt lost": (lambda o: (o / RECEIPT).unlink(), f"{RECEIPT}: is missing: the shard is not done"),
    "manifest lost": (lambda o: (o / "manifest.json").unlink(), "manifest.json: is missing: the job has not"),
    "bad receipt": (lambda o: (o / RECEIPT).write_text("{"), f"{RECEIPT}: is not a receipt"),
    "bad manifest": (lambda o: (o / "manifest.json").write_text("[]"), "manifest.json: is not a manifest"),
    "two shards changed places": (
        lambda o: [
            (o / "swap").write_bytes((o / SECOND).read_bytes()),
            shutil.copy(o / SECOND.replace("1-of", "0-of"), o / SECOND),
            (o / "swap").replace(o / SECOND.replace("1-of", "0-of")),
        ],
        "out of order, or not this shard's",
    ),
    "stray features": (
        lambda o: (o / "features-00003-of-00004.tfrecord").write_bytes(b""),
        "features-00003-of-00004.tfrecord: belongs to no committed shard",
    ),
    "stray ledger": (
        lambda o: (o / "failures-00000-of-00003.jsonl").write_text("{}"),
        "failures-00000-of-00003.jsonl: belongs to no committed shard",
    ),
    "stray temporary file": (
        lambda o: [(o / ".tmp").mkdir(), (o / ".tmp" / "x").write_text("")],
        ".tmp/x: belongs to no committed shard",
    ),
    "stray half of a manifest": (
        lambda o: (o / f"manifest.json.{31:032x}.tmp").write_text(""),
        f"manifest.json.{31:032x}.tmp: belongs to no committed shard",
    ),
    "stray half of a receipt": (
        lambda o: (o / f"{RECEIPT}.{31:032x}.tmp").write_text(""),
        f"{RECEIPT}.{31:032x}.tmp: belongs to no committed shard",
    ),
    "ledger line lost": (
        lambda o: (o / LEDGER).write_bytes((o / LEDGER).read_bytes().splitlines(True)[0]),
        "failures by code {'not_image': 1}, the receipt says {'not_image': 2}",
    ),
    "ledger out of order": (
        lambda o: (o / LEDGER).write_bytes(b"".join((o / LEDGER).read_bytes().splitlines(True)[::-1])),
        "line 2: position 1 is not between 3 and 5",
    ),
    "garbage in the ledger": (
        lambda o: (o / LEDGER).write_bytes(b"\0" + (o / LEDGER).read_bytes()),
        "line 1 is not a ledger line",
    ),
}


def test_an_unfinished_job_is_told_from_a_damaged_output(output, capsys):
    (output / "manifest.json").unlink()
    (output / RECEIPT).unlink()
    (output / ".tmp").mkdir()
    (output / ".tmp" / "running.json").write_text("{}")
    lines = problems(output, capsys, verify.BROKEN).splitlines()
    assert lines[:-1] == [
        f"{output}/{RECEIPT}: is missing: the shard is not done",
        f"{output}/manifest.json: is missing: the job has not finished; run it again to resume",
        f"{output}/.tmp/running.json: belongs to no committed shard",
        f"{output}/{LEDGER}: belongs to no committed shard",
        f"{output}/{SECOND}: belongs to no committed shard",
    ]
    assert lines[-1] == f"error: {output}: 5 problems; the job has not finished: run it again to resume"
    (output / "features-00000-of-00003.tfrecord").write_bytes(b"")
    assert "delete the receipts of the shards named" in problems(output, capsys, verify.BROKEN)


@pytest.mark.parametrize("case", FILE_CASES)
def test_files(output, capsys, case):
    damage, expected = FILE_CASES[case]
    damage(output)
    assert expected in problems(output, capsys, verify.BROKEN)


def nan(records):
    values = np.array(features.Record(0, records[1]).values()["embedding"])
    values[7] = np.nan
    records[1] = edited(records[1], "embedding", values.tolist(), "float_list")


def set_record(index, name, values, kind="bytes_list"):
    def change(records):
        records[index] = edited(records[index], name, values, kind)

    return change


RECORD_CASES = {
    "not finite": (nan, "record 1 at offset {}: output 'embedding' is not finite"),
    "short vector": (set_record(0, "embedding", [1.0], "float_list"), "has 1 values, expected"),
    "order": (lambda records: records.reverse(), "out of order"),
    "lost record": (lambda records: records.pop(), "2 records, the receipt says 3"),
    "another key": (set_record(0, "key", [b"in-1.tfrecord#1"]), "expected b'in-1.tfrecord#0'"),
    "no key": (set_record(0, "key", []), "feature 'key' does not hold one bytes value"),
    "width": (set_record(2, "image/width", [0], "int64_list"), "'image/width' does not hold one positive"),
    "checksum": (set_record(0, "image/sha256", [b"x" * 64]), "is not a SHA-256"),
    "unasked": (set_record(0, "image/filename", [b"x"]), "'image/filename' that was not requested"),
    "not an example": (lambda records: records.__setitem__(0, b"\xff\xff"), "not a tf.Example"),
}


@pytest.mark.parametrize("case", RECORD_CASES)
def test_records_under_checksums_that_fit(output, capsys, case):
    change, expected = RECORD_CASES[case]
    first = len(tfrecord.frame(framed(output / SECOND)[0]))
    rewrite(output, change)
    text = problems(output, capsys, verify.BROKEN)
    assert expected.format(first) in text
    assert text.count("\n") <= 8


RECEIPT_CASES = {
    "sum": (
        lambda content: content.update(features=4),
        "4 features and 2 failures do not add up to 5 inputs",
    ),
    "codes": (
        lambda content: content.update(failures_by_code={"not_image": 1}),
        "do not add up to 2 failures",
    ),
    "files": (lambda content: content["files"].pop(), "lists the files"),
    "label": (
        lambda content: content.update(shard="00002-of-00003"),
        "is the receipt of shard 00002-of-00003",
    ),
    "another request": (
        lambda content: content["fingerprint"].update(precision="bfloat16"),
        "precision is 'bfloat16', but 'float32' in shard 00000-of-00003",
    ),
    "dimensions": (lambda content: content.update(outputs={"embedding": 7}), "expected 7"),
}


@pytest.mark.parametrize("case", RECEIPT_CASES)
def test_receipts(output, capsys, case):
    change, expected = RECEIPT_CASES[case]
    edit(output / RECEIPT, change)
    assert expected in problems(output, capsys, verify.BROKEN)


@pytest.mark.parametrize("name", ["inputs", "features", "shards_done", "bytes", "precision"])
def test_a_manifest_that_does_not_follow_from_the_receipts(output, capsys, name):
    edit(output / "manifest.json", lambda content: content.update({name: "7"}))
    assert f"manifest.json: {name} is '7', but" in problems(output, capsys, verify.BROKEN)


def test_a_garbage_file_does_not_print_a_line_per_record(output, capsys):
    rewrite(output, lambda records: records.extend([b"\xff\xff"] * 1000))
    assert "more problems like these" in problems(output, capsys, verify.BROKEN)


def test_hidden_files_are_not_the_jobs(output, capsys):
    for name in ("receipts/._00000-of-00002.json", "receipts/.DS_Store", "._manifest.json"):
        (output / name).write_bytes(b"\0\5\x16\7")
    assert verify.main([str(output)]) == verify.COMPLETE
    assert capsys.readouterr().err.endswith(": complete\n")
