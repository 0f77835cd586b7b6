"""Text lists that are not as they should be: quotes, byte-order marks, encodings, line ends, compression, damage."""

import bz2
import codecs
import functools
import gzip
import hashlib
import io
import lzma
import random
import zipfile
import zlib

import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd

from transforms.sources import csv_rows, parquet_images, uri_list
from transforms.sources.base import BadInput, ReadSettings

PASSED = ReadSettings(2, pass_through=("text",))


def rows(path, kind, settings=None, rows_per_slice=3):
    """What the rows of all slices are: their URI, or the message of their error. Each slice is read as it was cut."""
    settings = settings or ReadSettings(2)
    cut = list(uri_list.slices(str(path), kind, settings, rows_per_slice))
    of_slices = [list(part.read(uri_list.columns_of(settings))) for part in cut]
    assert [len(part) for part in of_slices] == [part.rows for part in cut]
    return [str(row.error or row.uri) for part in of_slices for row in part]


def written(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# unclosed quotes


@pytest.mark.parametrize("rows_per_slice", [1, 7, 1000])
@pytest.mark.parametrize("text", ["x", '"quoted"', '"two\nlines, both mine"'])
def test_an_unclosed_quote_costs_its_line(tmp_path, rows_per_slice, text):
    lines = [f"/{number}.jpg,{text}\n" for number in range(100)]
    lines[10], lines[50], lines[99] = '/10.jpg,"open\n', '/50.jpg,"12" open\n', '/99.jpg,"open\n'
    path = written(tmp_path, "list.csv", "uri,text\n" + "".join(lines))
    found = rows(path, "csv", PASSED, rows_per_slice)
    lost = {10, 50, 99}
    assert [row for row in found if row.startswith("/")] == [
        f"/{number}.jpg" for number in range(100) if number not in lost
    ]
    assert len(found) == 100
    assert "a quote is opened and not closed before the next row" in found[10]
    assert all("the row is not CSV" in found[number] for number in lost)


def test_an_unclosed_quote_before_rows_that_are_told_by_nothing_but_their_length(tmp_path):
    lines = [
        f"{number},x\n" for number in range(100)
    ]  # no address: a text could look so, but its quote would be closed
    lines[10] = '10,"open\n'
    path = written(tmp_path, "list.csv", "uri,text\n" + "".join(lines))
    found = rows(path, "csv", PASSED, 9)
    assert [row for row in found if row.isdigit()] == [str(number) for number in range(100) if number != 10]
    assert len(found) == 100


def test_each_line_that_is_given_up_is_a_row_with_an_error(tmp_path):
    path = written(tmp_path, "list.csv", 'uri,text\n/a.jpg,"one\ntwo\n\nthree" four\n/b.jpg,x\n')
    found = rows(path, "csv", PASSED)
    assert [row[:11] for row in found] == ["the row is ", "the row has", "the row has", "/b.jpg"]


def test_rows_of_several_lines_stay_what_they_are(tmp_path):
    texts = [
        "one\ntwo",
        "a, b\nc, d",
        'say ""hi"",\nyou',
        "\n",
        "a\r\nb\rc",
        "see /x.jpg, there\nor x.jpg alone",
    ]
    path = written(
        tmp_path, "list.csv", "text,uri\n" + "".join(f'"{text}",/{at}.jpg\n' for at, text in enumerate(texts))
    )
    (cut,) = uri_list.slices(str(path), "csv", PASSED, 100)
    read = list(cut.read(uri_list.columns_of(PASSED)))
    assert [(row.uri, row.columns["text"]) for row in read] == [
        (f"/{at}.jpg", text.replace('""', '"')) for at, text in enumerate(texts)
    ]


def test_a_field_that_is_never_closed_is_looked_at_no_further_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_rows, "_MAX_ROW_BYTES", 100)
    path = written(tmp_path, "list.csv", 'uri,text\na,"open\n' + "b,x\n" * 40 + 'c,"closed\nhere"\n')
    found = rows(path, "csv", PASSED)
    assert (len(found), found[1:41], found[41]) == (42, ["b"] * 40, "c")


@pytest.mark.parametrize(
    "uri", ["/b.jpg", "b.jpg", "https://h/b", "data:,b%2Cc", "DATA:image/png;base64,AA=="]
)
def test_an_unclosed_quote_ends_before_an_address_of_any_form(tmp_path, uri):
    lines = ["uri,text", '/a.jpg,"open', f'"{uri}",x', '/c.jpg,"d" ']
    path = written(tmp_path, "list.csv", "\n".join(lines) + '\n"/e.jpg","y"\n')
    found = rows(path, "csv", PASSED)
    assert (len(found), found[1], found[3]) == (4, uri, "/e.jpg")


# what addresses are like: their suffix, their scheme, their folder, their length, or all but the numbers in them
ADDRESSES = {
    "a blank": "photo {}.jpg",
    "words": ["my cat.jpg", "the dog.JPG", "one bird, or two.png", "an old map.webp"],
    "an identifier": "id-{}",
    "a folder": "a/b {}.png",
    "a query": "{}.jpg?x=1",
    "a fragment": "a {}.jpg#top",
    "a blank in a URL": "https://h/my photo {}.jpg",
    "another URL": ["https://h/a b", "https://i/c?d e", "https://j/f g"],
    "numbers": "{}",
    "digests": [hashlib.sha256(b"%d" % number).hexdigest() for number in range(100)],
    "names of one length": ["dQw4w9WgXcQ", "9bZkp7q19f0", "kJQP7-iw5Fk", "_PBlykN4KIY"],
    "names in folders": ["images/cat", "images/dog", "images/horse"],
    "names of a disk": ["/a/the cat", "/b/the dog"],
    "another script": "写真 {}.jpg",
}


def addresses(of):
    return [of.format(at) if isinstance(of, str) else of[at % len(of)] for at in range(100)]


def listed(names, **texts):
    """A list with a caption for each address; '"' in front of an address that needs quotes."""
    quoted = [f'"{name}"' if "," in name else name for name in names]
    return [f"{name},{texts.get(f'at_{at}', 'caption')}\n" for at, name in enumerate(quoted)]


@pytest.mark.parametrize("rows_per_slice", [1, 9, 1000])
@pytest.mark.parametrize("kind", ADDRESSES)
def test_an_unclosed_quote_and_an_inch_mark_far_behind_it(tmp_path, kind, rows_per_slice):
    names = addresses(ADDRESSES[kind])
    lines = listed(names, at_10='"a caption', at_50='TV 55"', at_70='5"')
    path = written(tmp_path, "list.csv", "uri,text\n" + "".join(lines))
    found = rows(path, "csv", PASSED, rows_per_slice)
    assert "a quote is opened and not closed before the next row" in found[10]
    assert found[:10] + found[11:] == names[:10] + names[11:]


@pytest.mark.parametrize("between", [0, 1, 2])
@pytest.mark.parametrize("kind", sorted(set(ADDRESSES) - {"numbers"}))
def test_an_unclosed_quote_and_an_inch_mark_right_behind_it(tmp_path, kind, between):
    names = addresses(ADDRESSES[kind])[: between + 4]
    lines = listed(names, at_1='"a caption, open', **{f"at_{between + 2}": 'TV 55"'})
    path = written(tmp_path, "list.csv", "uri,text\n" + "".join(lines))
    found = rows(path, "csv", PASSED)
    assert "the row is not CSV" in found[1]
    assert found[:1] + found[2:] == names[:1] + names[2:]


@pytest.mark.parametrize("columns", ["text,uri", "a,uri,text", "uri,text,b", "text,b,uri"])
def test_an_unclosed_quote_in_columns_of_any_order(tmp_path, columns):
    names = columns.split(",")

    def line(at):
        text = {10: '"open', 50: 'TV 55"'}.get(at, "caption")
        return ",".join({"uri": f"photo {at}.jpg", "text": text}.get(name, "x") for name in names) + "\n"

    path = written(tmp_path, "list.csv", columns + "\n" + "".join(map(line, range(100))))
    found = rows(path, "csv", PASSED, 9)
    assert "the row is not CSV" in found[10]
    assert found[:10] + found[11:] == [f"photo {at}.jpg" for at in range(100) if at != 10]


@pytest.mark.parametrize("rows_per_slice", [1, 1000])
@pytest.mark.parametrize("uri", ["photo {}.jpg", "id-{}", "{}", "https://h/{}.jpg", "/{}.jpg", "a/b {}.png"])
@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo",
        "a, b\nc, d\ne, f\ng, h",
        "11,50\n12,50",
        "it cost\n11,50",
        "1,2\n3,4\n\n5,6\n7,8",
        "as in photo 7.jpg, which is mine\nand photo 8.jpg, too",
        "see\nphoto 7.jpg, which is mine\nand photo 8.jpg, which is not",
        "and/or,\neither/or,both",
        "this is id-7, they say,\nor id-8",
        "from the site\nhttps://h/ of a friend, thanks",
        "first,\nsecond,\nthird,",
        '""a,b""\n""c,d""\n""e,f""',
    ],
)
def test_captions_of_several_lines_stay_what_they_are(tmp_path, text, uri, rows_per_slice):
    for columns in ("uri,text", "text,uri"):
        pair = [uri, f'"{text}"'] if columns == "uri,text" else [f'"{text}"', uri]
        lines = [",".join(pair).format(at) + "\n" for at in range(4)]
        path = written(tmp_path, "list.csv", columns + "\n" + "".join(lines))
        cut = uri_list.slices(str(path), "csv", PASSED, rows_per_slice)
        read = [row for part in cut for row in part.read(uri_list.columns_of(PASSED))]
        assert [(row.uri, row.columns.get("text")) for row in read] == [
            (uri.format(at), text.replace('""', '"')) for at in range(4)
        ]


def test_a_header_with_an_unclosed_quote_is_refused(tmp_path):
    path = written(tmp_path, "list.csv", 'uri,"text\n/a.jpg,x\n')
    with pytest.raises(BadInput, match=r"list\.csv: the first row, which names the columns, is not CSV"):
        rows(path, "csv", PASSED)


@pytest.mark.parametrize("separator", ",;\t|")
def test_any_bytes_are_read_as_they_were_cut(tmp_path, separator):
    random.seed(0)
    parts = ['"', '"', ",", "\n", "\n", "\r", "/a.jpg", "x", "\ufeff", '/b.jpg,"x"\n', "/c.jpg,x\n"]
    parts += ["p 1.jpg,", "p 2.jpg,x\n", "1,x\n", "2,", '3,"x\n', '4,x"\n']
    parts = [part.replace(",", separator) for part in parts]
    for trial in range(300 if separator == "," else 100):
        text = f"uri{separator}text\n" + "".join(random.choices(parts, k=random.randrange(60)))
        path = written(tmp_path, f"{trial}.csv", text)
        by_one, by_all = (rows(path, "csv", PASSED, size) for size in (1, 1000))
        assert by_one == by_all, text


# other separators


@pytest.mark.parametrize("rows_per_slice", [1, 3, 1000])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "LIST.TSV.gz"])
@pytest.mark.parametrize("separator", ",;\t|")
def test_rows_are_separated_as_the_header_is(tmp_path, name, separator, rows_per_slice):
    """With all that holds for commas: quoted fields, an unclosed quote, rows of another length, empty fields."""
    others = "".join(sign for sign in ",;\t|" if sign != separator)
    lines = ['/0.jpg~"a~ ""b""\nand c"', f"/1.jpg~{others}", '/2.jpg~"open', "/3.jpg~x~y", "~", "/5.jpg~5"]
    lines = ["uri~text", *lines, '/6.jpg~TV 55"']
    text = "".join(f"{line}\n" for line in lines).replace("~", separator)
    data = text.encode() if name.endswith("v") else gzip.compress(text.encode())
    path = written(tmp_path, name, data)
    cut = list(uri_list.slices(str(path), "csv", PASSED, rows_per_slice))
    assert cut[0].start == len("uri,text\n")
    read = [row for part in cut for row in part.read(uri_list.columns_of(PASSED))]
    assert len(read) == 7
    assert [(at, row.uri, row.columns["text"]) for at, row in enumerate(read) if not row.error] == [
        (0, "/0.jpg", f'a{separator} "b"\nand c'),
        (1, "/1.jpg", others),
        (5, "/5.jpg", "5"),
        (6, "/6.jpg", 'TV 55"'),
    ]
    assert "a quote is opened and not closed before the next row" in str(read[2].error)
    assert "the row has 3 fields, the header 2" in str(read[3].error)
    assert "no URI in column 'uri'" in str(read[4].error)


def test_captions_of_several_lines_stay_what_they_are_with_tabs(tmp_path):
    texts = ["one, two\nthree", "/x.jpg, there\n/y.jpg, here", "a\tb\nno address\tc"]
    text = "uri\ttext\n" + "".join(f'/{at}.jpg\t"{text}"\n' for at, text in enumerate(texts))
    (cut,) = uri_list.slices(str(written(tmp_path, "list.tsv", text)), "csv", PASSED, 100)
    read = list(cut.read(uri_list.columns_of(PASSED)))
    assert [row.columns["text"] for row in read] == texts


def test_the_separator_is_the_one_that_gives_the_column_of_addresses(tmp_path):
    def read(name, text, settings):
        return rows(written(tmp_path, name, text), "csv", settings)

    assert read("a.csv", "uri;n,text\n/a.jpg,x\n", ReadSettings(2, uri_column="uri;n")) == ["/a.jpg"]
    assert read("b.csv", "a,b;uri\n/a,b;/a.jpg\n", ReadSettings(2)) == ["/a.jpg"]
    assert read("c.tsv", "uri,n\n/a.jpg,1\n", ReadSettings(2)) == ["/a.jpg"]
    # one column alone: whatever else stands in a row of a .tsv is part of the name
    assert read("d.tsv", "uri\n/a, b.jpg\n", ReadSettings(2)) == ["/a, b.jpg"]
    assert read("d.csv", "uri\n/a; b.jpg\n", ReadSettings(2)) == ["/a; b.jpg"]
    assert read("e.csv", '"uri";"two\nlines"\n/a.jpg;x\n', ReadSettings(2)) == ["/a.jpg"]


@pytest.mark.parametrize("rows_per_slice", [1, 1000])
@pytest.mark.parametrize("first", ["sep=~", "SEP=~", '"sep=~"', "\ufeffsep=~"])
@pytest.mark.parametrize("separator", ",;\t|")
def test_excels_first_line_names_the_separator_and_is_no_row(tmp_path, separator, first, rows_per_slice):
    others = ",;|".replace(separator, "")
    text = f"{first}\r\nuri~text\r\n/a.jpg~{others}\r\n~\r\n/b.jpg~y\r\n".replace("~", separator)
    path = written(tmp_path, "list.csv", text)
    found = rows(path, "csv", PASSED, rows_per_slice)
    assert (found[0], found[2], len(found)) == ("/a.jpg", "/b.jpg", 3)
    assert "no URI in column 'uri'" in found[1]
    start = next(uri_list.slices(str(path), "csv", PASSED, 1)).start
    assert path.read_bytes()[start:].startswith(b"/a.jpg")


def test_other_first_lines_are_headers(tmp_path):
    path = written(tmp_path, "list.csv", "sep=;,uri\n1,/a.jpg\n")
    assert rows(path, "csv") == ["/a.jpg"]
    for text in ("", "sep=;\n"):
        with pytest.raises(BadInput, match="has no column 'uri'; its columns are none"):
            rows(written(tmp_path, "list.csv", text), "csv")
    with pytest.raises(BadInput, match=r"its columns are sep=\^: set --uri_column"):
        rows(written(tmp_path, "list.csv", "sep=^\nuri^text\n"), "csv")


# names of columns


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("settings", "twice"),
    [
        (ReadSettings(2, pass_through=("label",)), "label"),
        (ReadSettings(2, key_feature="label"), "label"),
        (ReadSettings(2, uri_column="label"), "label"),
        (ReadSettings(2, pass_through=("text",)), ""),
    ],
)
def test_a_column_that_is_asked_for_must_have_a_name_of_its_own(tmp_path, kind, settings, twice):
    path, names = tmp_path / f"list.{kind}", ["uri", "label", "text", "label"]
    if kind == "csv":
        path.write_text(f"{','.join(names)}\n/a.jpg,/b.jpg,t,/c.jpg\n")
    else:
        columns = [pyarrow.array([value]) for value in ("/a.jpg", "/b.jpg", "t", "/c.jpg")]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names), path)
    if not twice:
        assert rows(path, kind, settings) == ["/a.jpg"]
        return
    said = f"has 2 columns named '{twice}'; its columns are uri, label, text, label: rename all but"
    with pytest.raises(BadInput, match=said):
        rows(path, kind, settings)


def test_blanks_in_the_names_of_columns_are_shown(tmp_path):
    path = written(tmp_path, "list.csv", "id, uri, caption,\n1, /a.jpg, x,\n")
    said = "no column 'uri'; its columns are id, ' uri', ' caption', '': the blanks in ' uri' are part of its name"
    with pytest.raises(BadInput, match=said):
        rows(path, "csv")
    assert rows(path, "csv", ReadSettings(2, uri_column=" uri")) == [" /a.jpg"]


# JSON that is not in lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[{"uri": "/a.jpg"}, {"uri": "/b.jpg"}]',
            r"is a JSON array, and .*: `jq -c '\.\[\]' /.*/list\.jsonl > lines",
        ),
        ('\ufeff\n [\n{"uri": "/a.jpg"},\n{"uri": "/b.jpg"}\n]\n', "is a JSON array"),
        ('[\n  {\n    "uri": "/a.jpg"\n  }\n]\n', "is a JSON array"),
        ("[]", "is a JSON array"),
        (
            '{\n  "uri": "/a.jpg"\n}\n{\n  "uri": "/b.jpg"\n}\n',
            r"a JSON object over several lines, .*: `jq -c \. /.*jsonl > lines",
        ),
        ('{"uri":\n  "/a.jpg"}\n', "a JSON object over several lines"),
        pytest.param(
            "{\n" + '"a": 1,\n' * 2000, "a JSON object over several lines", id="longer than is looked at"
        ),
    ],
)
def test_json_that_is_not_in_lines_is_refused_with_the_remedy(tmp_path, text, said):
    with pytest.raises(BadInput, match=said):
        rows(written(tmp_path, "list.jsonl", text), "jsonl")


@pytest.mark.parametrize("bad", ['["/a.jpg"]', '{"uri": "/a.jpg"', "{", "[1", '{"uri": "/a\nb.jpg"}'])
def test_lines_that_are_no_objects_stay_rows_beside_others(tmp_path, bad):
    found = rows(written(tmp_path, "list.jsonl", f'{bad}\n{{"uri": "/c.jpg"}}\n'), "jsonl")
    assert (found[-1], len(found)) == ("/c.jpg", 2 + bad.count("\n"))
    assert "the line is not" in found[0]


# marks, encodings and line ends


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_encodings_with_a_mark_and_line_ends(tmp_path, kind, encoding, end):
    names = ["/é.jpg", "/\U0001f600.jpg", "/c.jpg", "/d.jpg"]
    lines = {"txt": names, "csv": ["uri,text", *[f"{name},x" for name in names]]}
    lines["jsonl"] = [f'{{"uri": "{name}"}}' for name in names]
    text = end.join(lines[kind]) + end
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    path = written(tmp_path, f"list.{kind}", (mark + text).encode(encoding))
    assert rows(path, kind) == names


def test_marks_between_joined_lists_cost_nothing(tmp_path):
    mark = codecs.BOM_UTF8
    path = written(tmp_path, "list.txt", mark + b"/a.jpg\n" + mark + b"/b.jpg\n" + mark + b"\n")
    assert rows(path, "txt") == ["/a.jpg", "/b.jpg"]
    path = written(tmp_path, "list.jsonl", mark + b'{"uri": "/a.jpg"}\n' + mark + b'{"uri": "/b.jpg"}\n')
    assert rows(path, "jsonl") == ["/a.jpg", "/b.jpg"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_encodings_without_a_mark_are_refused_by_name(tmp_path, encoding):
    path = written(tmp_path, "list.txt", "/a.jpg\n/b.jpg\n".encode(encoding))
    with pytest.raises(
        BadInput, match=rf"list\.txt looks like {encoding[:6].upper()} without .*: save it as UTF-8"
    ):
        rows(path, "txt")


def test_text_that_ends_inside_a_character_is_refused(tmp_path):
    path = written(tmp_path, "list.txt", "/a.jpg\n/b.jpg\n".encode("utf-16")[:-1])
    with pytest.raises(
        BadInput, match=r"list\.txt cannot be read beyond byte 7 of its text, after 1 rows: .*again"
    ):
        rows(path, "txt")


def test_a_line_longer_than_any_block(tmp_path, monkeypatch):
    path = written(tmp_path, "list.txt", "/" + "a" * 5_000_000 + ".jpg\r\n/b.jpg\r")
    assert [len(row) for row in rows(path, "txt")] == [5_000_005, 6]


# compression

PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("list", data)
    return out.getvalue()


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("is_named", [True, False])
def test_compressed_lists(tmp_path, suffix, is_named):
    pack = PACKERS[suffix]
    data = pack(b"/a.jpg\n/b") + pack(b".jpg\n") + pack(b"/c.jpg\n")
    assert rows(written(tmp_path, f"list.txt{f'.{suffix}' * is_named}", data), "txt", None, 2) == [
        "/a.jpg",
        "/b.jpg",
        "/c.jpg",
    ]
    wide = pack("uri,text\r/a.jpg,é\r".encode("utf-16"))
    assert rows(written(tmp_path, f"list.csv.{suffix}", wide), "csv", PASSED) == ["/a.jpg"]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_cut_list_is_refused_with_the_place(tmp_path, suffix):
    lines = b"".join(b"/%032x.jpg\n" % random.getrandbits(128) for _ in range(1000))
    packed = PACKERS[suffix](lines)
    path = written(tmp_path, f"list.txt.{suffix}", packed[: len(packed) - 9])
    with pytest.raises(
        BadInput,
        match=rf"list\.txt\.{suffix} cannot be read beyond byte \d+ of its text, after \d+ rows: .*make or copy",
    ):
        rows(path, "txt")


@pytest.mark.parametrize("suffix", PACKERS)
def test_junk_behind_a_compressed_list_is_refused(tmp_path, suffix):
    path = written(tmp_path, f"list.txt.{suffix}", PACKERS[suffix](b"/a.jpg\n") + b"/b.jpg\n")
    with pytest.raises(
        BadInput, match=rf"list\.txt\.{suffix} cannot be read beyond byte 7 of its text, after 1 rows"
    ):
        rows(path, "txt")


def test_a_list_that_takes_too_much_memory_to_unpack_is_refused_with_the_remedy(tmp_path):
    large = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    data = lzma.compress(b"/b.jpg\n", filters=large)
    for parts, where in (((data,), ""), ((lzma.compress(b"/a.jpg\n"), data), "beyond byte 7 of its text")):
        path = written(tmp_path, "list.txt.xz", b"".join(parts))
        with pytest.raises(
            BadInput, match=rf"list\.txt\.xz cannot be read.*{where}.*pack it again"
        ) as caught:
            rows(path, "txt")
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "pack", [functools.partial(lzma.compress, format=lzma.FORMAT_ALONE), zlib.compress, zipped]
)
def test_compression_that_no_suffix_names_is_refused_by_name(tmp_path, pack):
    path = written(tmp_path, "list.csv", pack(b"uri,text\n" + b"/a.jpg,a caption\n" * 1000))
    with pytest.raises(
        BadInput, match=r"list\.csv cannot be read: it is packed as (lzma|zlib|zip), .*unpack it"
    ):
        rows(path, "csv")


@pytest.mark.parametrize("name", ["list.parquet", "list.parquet.gz"])
@pytest.mark.parametrize("suffix", [*PACKERS, "lzma", "zip"])
def test_parquet_that_is_packed_as_a_whole_is_refused_by_name(tmp_path, name, suffix):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"uri": ["/a.jpg"]}), out)
    pack = PACKERS | {"lzma": functools.partial(lzma.compress, format=lzma.FORMAT_ALONE), "zip": zipped}
    path = written(tmp_path, name, pack[suffix](out.getvalue()))
    named = {"gz": "gzip", "bz2": "bzip2", "zst": "zstd"}.get(suffix, suffix)
    told = rf"{name} cannot be read: it is packed as {named}, .*: unpack it$"
    with pytest.raises(BadInput, match=told):
        rows(path, "parquet")
    with pytest.raises(BadInput, match=told):
        parquet_images.KIND.accepts(str(path), ReadSettings(2))


@pytest.mark.parametrize("name", ["list.txt.deflate", "list.csv.lz4", "list.jsonl.zip"])
def test_compression_that_is_not_read_is_refused_by_name(tmp_path, name):
    path = written(tmp_path, name, b"whatever\n")
    with pytest.raises(
        BadInput, match=rf"{name} cannot be read: it is packed as (deflate|lz4|zip), .*unpack it"
    ):
        rows(path, name.split(".")[1])
