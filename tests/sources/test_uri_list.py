"""Lists of URIs: rows, slices, and their errors."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import helpers
from transforms.errors import ItemError
from transforms.sources import uri_list
from transforms.sources.base import Reading, ReadSettings


@pytest.mark.parametrize("rows_per_slice", [1, 2, 3, 100])
def test_slices_of_a_csv_with_line_breaks_in_fields(tmp_path, rows_per_slice):
    path = tmp_path / "list.csv"
    path.write_text(
        '\ufeffuri,text\r\n/a.jpg,"one\ntwo, ""quoted"""\r\n\r\n/b.jpg,x\n/c.jpg\n,empty\n', newline=""
    )
    settings = ReadSettings(2, pass_through=("text",))
    cut = list(uri_list.slices(str(path), "csv", settings, rows_per_slice))
    assert sum(part.rows for part in cut) == 4
    assert all(part.rows <= rows_per_slice for part in cut)
    rows = [row for part in cut for row in part.read(uri_list.columns_of(settings))]
    assert [(row.uri, row.columns) for row in rows[:2]] == [
        ("/a.jpg", {"text": 'one\ntwo, "quoted"'}),
        ("/b.jpg", {"text": "x"}),
    ]
    assert [str(row.error) for row in rows[2:]] == [
        "the row has 1 fields, the header 2",
        "no URI in column 'uri'",
    ]


def test_bad_lines_of_json_keep_their_place(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"uri": "/a.jpg"}\nnot json\n[1]\n{"url": "/b.jpg"}\n')
    (cut,) = uri_list.slices(str(path), "jsonl", ReadSettings(2), 10)
    rows = list(cut.read(uri_list.columns_of(ReadSettings(2))))
    assert [row.error.code if row.error else row.uri for row in rows] == ["/a.jpg", *["bad_row"] * 3]


def test_a_changed_list_changes_its_slices(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("/a.jpg\n/b.jpg\n/c.jpg\n")
    before = list(uri_list.slices(str(path), "txt", ReadSettings(2), 2))
    path.write_text("/a.jpg\n/b.jpg\n/d.jpg\n")
    after = list(uri_list.slices(str(path), "txt", ReadSettings(2), 2))
    assert before[0] == after[0]
    assert before[1].sha256 != after[1].sha256


def refuse(uri):
    raise ItemError("http_4xx", "answered 404")


def messages(folder, settings, *rows):
    """Of the rows of a list of JSON lines, none of which can be fetched."""
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (cut,) = uri_list.slices(str(path), "jsonl", settings, 100)
    with ThreadPoolExecutor(1) as pool:
        return [failure.message for failure in cut.items(Reading("x", settings, fetch=refuse, pool=pool))]


def test_a_failure_says_its_address_where_its_key_does_not(tmp_path):
    rows = [
        {"uri": "https://u:p@h/a.jpg?X-Amz-Signature=secret&v=1", "id": 7},
        {"uri": "b.jpg", "id": "b.jpg"},
        {"uri": "c.jpg", "id": ""},
        {"uri": "data:,%00", "id": 9},
        {"uri": "404", "id": 10},
        {"uri": "\udcff.jpg", "id": 11},
        {"uri": "\ud800.jpg", "id": 12},
        {"uri": "e.jpg", "id": "\ud800"},
        {"id": 13},
    ]
    settings = ReadSettings(2, key_feature="id")
    digest = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert messages(tmp_path, settings, *rows) == [
        "answered 404; image: https://h/a.jpg?v=1",
        "answered 404",
        "the row has nothing in its key column 'id'; image: c.jpg",
        f"answered 404; image: data:sha256:{digest}",
        "answered 404; image: 404",
        "answered 404; image: \\udcff.jpg",
        "answered 404; image: \\ud800.jpg",
        "a value cannot be stored: 'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed; "
        "image: e.jpg",
        "no URI in column 'uri'",
    ]


@pytest.mark.parametrize("key", ["", "uri"])
def test_ledgers_of_lists_whose_keys_are_addresses_are_as_ever(tmp_path, key):
    rows = [
        {"uri": uri} for uri in ("https://h/a.jpg?X-Amz-Signature=s", "\udcff.jpg", "\ud800.jpg", "b.jpg")
    ]
    found = messages(tmp_path, ReadSettings(2, key_feature=key), *rows)
    assert "image" not in "".join(found)
    assert [message for message in found if "stored" not in message] == ["answered 404"] * 3


def test_each_stage_says_the_address(tmp_path, monkeypatch):
    """Also where the image cannot be decoded, and where the model refuses it."""
    from transforms import infer

    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    (tmp_path / "good.jpg").write_bytes(helpers.encoded(1))
    (tmp_path / "list.csv").write_text(f"uri,id\n{tmp_path}/gone.jpg,1\nbad.jpg,2\ngood.jpg,3\n")
    run = infer._run

    def refusing(call, pixels, rows, model):
        outputs, _ = run(call, pixels, rows, model)
        return outputs, dict.fromkeys(rows, ("not_finite", "no number"))

    monkeypatch.setattr(infer, "_run", refusing)
    flags = (f"--input={tmp_path}/list.csv", "--key_feature=id", "--max_failure_rate=1")
    helpers.job(*flags, output=tmp_path / "out", expect=3)
    found = {line["key"]: (line["stage"], line["message"]) for line in helpers.read_ledger(tmp_path / "out")}
    assert {key: stage for key, (stage, _) in found.items()} == {"1": "fetch", "2": "decode", "3": "infer"}
    assert found["2"][1].endswith("; image: bad.jpg")
    assert found["3"][1] == "no number; image: good.jpg"
    assert f"{tmp_path}/gone.jpg" in found["1"][1]
