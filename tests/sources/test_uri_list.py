"""Lists of URIs: rows, slices, and their errors."""

import pytest

from transforms.sources import uri_list
from transforms.sources.base import ReadSettings


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
