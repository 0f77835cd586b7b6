"""Odd rows, damaged archives and secrets: every input still ends as a feature or a ledger line."""

import json
from types import MappingProxyType

import numpy as np
import pytest

from tests import helpers
from transforms import infer
from transforms.elements import Decoded, PixelChunk, Shard
from transforms.sources.tfrecord import RecordFile
from transforms.storage import copying


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(helpers.encoded(0))
    return path


def run(tmp_path, *flags):
    helpers.job(*flags, "--max_failure_rate=1", output=tmp_path / "out")
    return helpers.read_all(tmp_path / "out"), helpers.read_ledger(tmp_path / "out")


def test_a_quote_inside_a_field_swallows_no_rows(tmp_path, photo):
    rows = ['6" pipe', "plain", '7" pipe', '"quoted, ""twice"""', "end"]
    path = tmp_path / "list.csv"
    path.write_text("uri,text\n" + "".join(f"{photo},{text}\n" for text in rows))
    records, failed = run(tmp_path, f"--input={path}", "--pass_through=text")
    assert [record["text"][0].decode() for record in records] == [
        '6" pipe',
        "plain",
        '7" pipe',
        'quoted, "twice"',
        "end",
    ]
    assert failed == []


def test_an_unclosed_quote_is_one_ledger_line_and_a_retry_finds_its_place(tmp_path, photo):
    lines = [f"{photo},{number}\n" for number in range(20)]
    lines[5], lines[12] = f'{photo},"5\n', f"{tmp_path}/b.jpg,12\n"
    path = tmp_path / "list.csv"
    path.write_text("\ufeffuri,n\n" + "".join(lines), encoding="utf-16")
    flags = (f"--input={path}", "--pass_through=n", "--images_per_shard=8")
    records, failed = run(tmp_path, *flags)
    assert [record["n"] for record in records] == [[b"%d" % n] for n in range(20) if n not in (5, 12)]
    assert [(line["position"], line["code"]) for line in failed] == [(5, "bad_row"), (4, "not_found")]
    (tmp_path / "b.jpg").write_bytes(helpers.encoded(1))
    records, failed = run(tmp_path, *flags, "--retry_failures")
    assert [record["n"] for record in records] == [[b"%d" % n] for n in range(20) if n != 5]
    assert [(line["position"], line["code"]) for line in failed] == [(5, "bad_row")]


def test_a_uri_that_cannot_be_stored_is_a_ledger_line(tmp_path, photo):
    path = tmp_path / "list.jsonl"
    lines = [{"uri": str(photo), "n": 1}, {"uri": "/\ud800.jpg", "n": 1}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    records, failed = run(tmp_path, f"--input={path}", "--pass_through=n")
    assert [record["n"] for record in records] == [[1]]
    assert [(line["position"], line["code"]) for line in failed] == [(1, "bad_row")]


def test_bytes_of_another_encoding_pass_through_unchanged(tmp_path, photo):
    path = tmp_path / "list.csv"
    path.write_bytes(b"uri,text\n%s,caf\xe9\n" % str(photo).encode())
    (record,), failed = run(tmp_path, f"--input={path}", "--pass_through=text")
    assert (record["text"], failed) == ([b"caf\xe9"], [])


def test_a_misspelt_column_of_json_lines_is_refused_at_once(tmp_path, capsys):
    path = tmp_path / "list.jsonl"
    path.write_text('{"url": "/a.jpg"}\n')
    helpers.job(f"--input={path}", output=tmp_path / "out", expect=2)
    assert "none of the first 1 lines has 'uri': set --uri_column" in capsys.readouterr().err


def test_a_key_column_never_shows_a_signature_and_may_not_be_empty(tmp_path, photo):
    path = tmp_path / "list.jsonl"
    rows = [
        {"uri": str(photo), "id": "https://x.example/a?X-Amz-Signature=SECRET"},
        {"uri": str(photo), "id": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (record,), (line,) = run(tmp_path, f"--input={path}", "--key_feature=id")
    assert record["key"] == [b"https://x.example/a"]
    assert line["code"] == "missing_feature"
    assert not any(b"SECRET" in data for data in helpers.contents(tmp_path / "out").values())


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_gzip_file_gives_what_is_intact_and_one_line(tmp_path, how):
    random = np.random.RandomState(0)
    examples = [helpers.image_example(i, noise=random.bytes(200_000)) for i in range(20)]
    whole = helpers.write_tfrecord(tmp_path / "in.tfrecord.gz", examples)
    data = bytearray(whole.read_bytes())
    at = len(data) * 3 // 4
    if how == "cut":
        data = data[:at]
    else:
        data[at : at + 4000] = b"\xff" * 4000
    whole.write_bytes(data)
    records, failed = run(tmp_path, f"--input={whole}")
    assert 10 <= len(records) < 20
    assert [record["key"][0] for record in records] == [b"in.tfrecord.gz#%d" % i for i in range(len(records))]
    assert {line["code"] for line in failed} == {"damaged_record"}


def test_a_gzip_file_cut_between_records_is_noticed(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord.gz", [helpers.image_example(0)])
    path.write_bytes(path.read_bytes()[:-8])  # the data is there, the trailer is not
    records, failed = run(tmp_path, f"--input={path}")
    assert len(records) == 1
    assert [line["code"] for line in failed] == ["damaged_record"]


def test_an_optional_feature_may_be_missing_from_the_first_record(tmp_path):
    examples = [helpers.image_example(0), helpers.image_example(1, opt="here")]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", examples)
    first, second = run(tmp_path, f"--input={path}", "--pass_through=opt")[0]
    assert "opt" not in first
    assert second["opt"] == [b"here"]


class DeadModel:
    identity = MappingProxyType({"route": "fake"})

    def __call__(self, pixels):
        raise RuntimeError("device lost")


def test_a_dead_device_is_no_failure_of_a_lone_image():
    shard = Shard(0, 1, RecordFile("in", 1, 0.0), "in")
    chunk = PixelChunk(shard, 0, True, (Decoded(b"k", 0, 0, 1, 1, ""),), np.ones((1, 2, 2, 3), np.float32))
    with pytest.raises(infer.ModelFailed, match="device lost"):
        infer.infer(chunk, DeadModel())


def test_overwrite_that_cannot_run_leaves_the_old_output(tmp_path, capsys):
    import tensorflow as tf

    pattern = helpers.write_shards(tmp_path / "in", (2,))
    helpers.job(f"--input={pattern}", output=tmp_path / "out")
    before = helpers.contents(tmp_path / "out")
    module = tf.Module()
    signature = tf.function(lambda images: {"features": tf.reduce_mean(images, (1, 2))})
    module.f = signature.get_concrete_function(tf.TensorSpec([None, 100, 100, 3], tf.float32, "images"))
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.f})
    helpers.job(
        f"--input={pattern}", "--overwrite", f"--model={tmp_path}/m", output=tmp_path / "out", expect=2
    )
    assert helpers.contents(tmp_path / "out") == before


def test_shards_that_vanish_are_not_called_done(tmp_path, monkeypatch, capsys):
    from transforms import manifest

    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    original = manifest.write_manifest

    def losing(layout, *rest):
        (tmp_path / "out" / "receipts" / "00001-of-00002.json").unlink()
        original(layout, *rest)

    monkeypatch.setattr(manifest, "write_manifest", losing)
    helpers.job(f"--input={pattern}", output=tmp_path / "out", expect=1)
    assert "1 of this run's 2 shards" in capsys.readouterr().err


def test_the_copy_of_a_model_follows_its_content(tmp_path):
    (tmp_path / "m.npz").write_bytes(b"a" * 100)
    before = copying.checksum(str(tmp_path / "m.npz"))
    (tmp_path / "m.npz").write_bytes(b"b" * 101)
    assert copying.checksum(str(tmp_path / "m.npz")) != before
