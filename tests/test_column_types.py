"""Values that are passed through have one type per column, for the whole job: the manifest's schema parses every record."""

import datetime
import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import options
from pipeline.flags import RequestError
from tests import helpers
from transforms.commit import receipts
from transforms.commit.layout import Layout


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(helpers.encoded(0))
    return str(path)


def run(tmp_path, *flags, output="out", expect=0):
    """The passed-through columns of each record, as the manifest's schema parses them, the ledger, and the manifest."""
    import tensorflow as tf

    helpers.job(*flags, output=tmp_path / output, expect=expect)
    manifest = helpers.manifest(tmp_path / output)
    dtypes = {"int64": tf.int64, "float": tf.float32, "bytes": tf.string}
    types = manifest["schema"]["pass_through_types"]
    schema = {name: tf.io.VarLenFeature(dtypes[kind]) for name, kind in types.items()}
    files = sorted(map(str, (tmp_path / output).glob("features-*")))
    parsed = [tf.io.parse_single_example(record, schema) for record in tf.data.TFRecordDataset(files)]
    values = [{name: value.values.numpy().tolist() for name, value in one.items()} for one in parsed]
    return values, helpers.read_ledger(tmp_path / output), manifest


def json_lines(path, uri, rows):
    path.write_text("".join(json.dumps({"uri": uri, **row}) + "\n" for row in rows))
    return f"--input={path}"


def test_json_lines(tmp_path, photo, capsys):
    first = [{"f": 0.5, "n": 1, "t": "x", "l": [1, 2], "o": {"a": [1]}}, {"f": 1, "n": True, "t": 5, "l": []}]
    later = [
        {"f": "no", "n": 0.5, "t": "\ud83d!", "l": [1, None, 3], "o": [[1], "é"]},
        {"f": 1e300, "n": 2**63, "t": None, "l": [0.5], "o": 1},
        {"f": {"a": 1}, "n": 3.0, "t": True, "l": "7"},
    ]
    rows = [first[at % 2] for at in range(1000)]
    path = tmp_path / "list.jsonl"
    flag = json_lines(path, str(tmp_path / "none.jpg"), rows)  # of which no image is found
    path.write_text(path.read_text() + "".join(json.dumps({"uri": photo, **row}) + "\n" for row in later))
    flags = (flag, "--pass_through=f,n,t,l,o", "--max_failure_rate=1", "--images_per_shard=2000")
    values, failed, manifest = run(tmp_path, *flags)
    assert len(failed) == 1000
    kinds = {"f": "float", "n": "int64", "t": "bytes", "l": "int64", "o": "bytes"}
    assert manifest["schema"]["pass_through_types"] == kinds
    assert values == [
        {"f": [], "n": [], "t": ["\ufffd!".encode()], "l": [1, 3], "o": ['[[1], "é"]'.encode()]},
        {"f": [], "n": [], "t": [], "l": [], "o": [b"1"]},
        {"f": [], "n": [3], "t": [b"true"], "l": [7], "o": []},
    ]
    assert manifest["unfit_values"] == 7
    assert "7 values of --pass_through did not fit" in capsys.readouterr().err


def test_first_rows_that_are_whole_and_not(tmp_path, photo):
    flag = json_lines(tmp_path / "list.jsonl", photo, [{"f": 0.5, "big": 1}, {"f": 1, "big": 2**64}])
    values, failed, manifest = run(tmp_path, flag, "--pass_through=f,big")
    assert values == [{"f": [0.5], "big": [b"1"]}, {"f": [1.0], "big": [b"%d" % 2**64]}]
    assert (failed, "unfit_values" in manifest) == ([], False)


def test_csv(tmp_path, photo):
    path = tmp_path / "list.csv"
    path.write_text(f"uri,label,score,text\n{photo},7,0.5,5\n{photo},,1e0,\n{photo},7.5,nan?,x\n")
    flags = (f"--input={path}", "--pass_through=label:int64,score:float,text")
    values, failed, manifest = run(tmp_path, *flags)
    assert values == [
        {"label": [7], "score": [0.5], "text": [b"5"]},
        {"label": [], "score": [1.0], "text": [b""]},
        {"label": [], "score": [], "text": [b"x"]},
    ]
    assert (failed, manifest["unfit_values"]) == ([], 2)


@pytest.mark.parametrize("kind", ["list", "images"])
def test_parquet(tmp_path, photo, kind):
    columns = {
        "n": pyarrow.array([1, None, 3], pyarrow.int8()),
        "u": pyarrow.array([1, 2**64 - 1, 3], pyarrow.uint64()),
        "h": pyarrow.array([0.5, 1, 2], pyarrow.float32()),
        "d": pyarrow.array([datetime.date(2020, 1, 2)] * 3),
        "l": pyarrow.array([[1.5], [None], []], pyarrow.list_(pyarrow.float64())),
        "s": pyarrow.array([{"a": 1}, {"a": None}, None]),
        "c": pyarrow.array(["x", "y", "x"]).dictionary_encode(),
        "z": pyarrow.nulls(3),
    }
    images = {"uri": [photo] * 3} if kind == "list" else {"image": [helpers.encoded(0)] * 3}
    pyarrow.parquet.write_table(pyarrow.table({**images, **columns}), tmp_path / "in.parquet")
    flags = (f"--input={tmp_path}/in.parquet", f"--pass_through={','.join(columns)}")
    values, failed, manifest = run(tmp_path, *flags)
    assert [one["n"] for one in values] == [[1], [], [3]]
    assert [one["u"] for one in values] == [[1], [], [3]]
    assert [one["l"] for one in values] == [[1.5], [], []]
    assert [one["d"] for one in values] == [[b"2020-01-02"]] * 3
    assert [one["s"] for one in values] == [[b'{"a": 1}'], [b'{"a": null}'], []]
    assert [one["c"] for one in values] == [[b"x"], [b"y"], [b"x"]]
    assert (values[0]["h"], values[0]["z"], failed, manifest["unfit_values"]) == ([0.5], [], [], 1)


def test_files_of_parquet_whose_types_differ(tmp_path, photo):
    for name, numbers in (("0", [1, 2]), ("1", [0.5, 1.0])):
        pyarrow.parquet.write_table(
            pyarrow.table({"uri": [photo] * 2, "n": numbers}), tmp_path / f"{name}.parquet"
        )
    values, _, manifest = run(tmp_path, f"--input={tmp_path}/*.parquet", "--pass_through=n")
    assert [one["n"] for one in values] == [[1.0], [2.0], [0.5], [1.0]]
    assert manifest["schema"]["pass_through_types"] == {"n": "float"}


def test_tfrecords(tmp_path):
    values = [{"a": 1, "b": 1.5, "c": "x"}, {"a": 2.5, "c": 3}, {"a": "7", "b": 2, "c": [0.5, 1.0]}]
    padding = [helpers.image_example(0, a=1, b=1.5, c="x", noise=bytes(1 << 20))]
    records = [helpers.image_example(0, **row) for row in values]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [*padding, *records])
    found, failed, manifest = run(tmp_path, f"--input={path}", "--pass_through=a,b,c")
    assert found == [
        {"a": [1], "b": [1.5], "c": [b"x"]},
        {"a": [1], "b": [1.5], "c": [b"x"]},
        {"a": [], "b": [], "c": [b"3"]},
        {"a": [7], "b": [2.0], "c": [b"0.5", b"1.0"]},
    ]
    assert (failed, manifest["unfit_values"]) == ([], 1)


def test_members_of_a_tar(tmp_path):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for at, label in enumerate([b"7\n", b"cat", b""]):
            for name, data in (("jpg", helpers.encoded(0)), ("cls", label), ("txt", b"\xff")):
                member = tarfile.TarInfo(f"{at}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    values, failed, manifest = run(tmp_path, f"--input={tmp_path}/in.tar", "--pass_through=cls:int64,txt")
    assert [(one["cls"], one["txt"]) for one in values] == [
        ([7], [b"\xff"]),
        ([], [b"\xff"]),
        ([], [b"\xff"]),
    ]
    assert (failed, manifest["unfit_values"]) == ([], 1)


# resume


def test_a_resume_keeps_the_types_and_refuses_others(tmp_path, photo, capsys):
    path = tmp_path / "list.jsonl"
    flags = (json_lines(path, photo, [{"n": 1}, {"n": 2}]), "--images_per_shard=1", "--pass_through=n")
    run(tmp_path, *flags)
    before = helpers.contents(tmp_path / "out")
    # As a version would do it that settled another type from the same rows.
    for receipt in (tmp_path / "out").glob("receipts/*"):
        receipt.write_text(receipt.read_text().replace('"n": "int64"', '"n": "float"'))
    next((tmp_path / "out").glob("receipts/00001-*")).unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    helpers.job(*flags, output=tmp_path / "out")
    assert helpers.manifest(tmp_path / "out")["schema"]["pass_through_types"] == {"n": "float"}
    assert helpers.read_all(tmp_path / "out")[1]["n"].tolist() == [2.0]
    assert helpers.contents(tmp_path / "out").keys() == before.keys()
    helpers.job(*flags[:2], "--pass_through=n:int64", output=tmp_path / "out", expect=2)
    assert "schema.pass_through_types.n = 'float', this run requests 'int64'" in capsys.readouterr().err


def test_failures_that_are_retried_add_to_the_count(tmp_path, photo):
    path = tmp_path / "list.csv"
    path.write_text(f"uri,n\n{photo},x\n{tmp_path}/b.jpg,y\n")
    flags = (f"--input={path}", "--pass_through=n:int64")
    assert run(tmp_path, *flags)[2]["unfit_values"] == 1
    (tmp_path / "b.jpg").write_bytes(helpers.encoded(1))
    assert run(tmp_path, *flags, "--retry_failures")[2]["unfit_values"] == 2
    (receipt,) = receipts.read_receipts(Layout(str(tmp_path / "out")))
    assert (receipt.features, receipt.unfit_values) == (2, 2)


# the request


def request(*flags):
    return options.parse([*helpers.TINY, "--input=in", "--output=out", *flags])[0].read


def test_types_in_the_request():
    read = request("--pass_through=image/class/label:int64,dc:title,a:b:float,c:bytes")
    assert read.pass_through == ("image/class/label", "dc:title", "a:b", "c")
    assert read.kinds == (("image/class/label", "int64"), ("a:b", "float"), ("c", "bytes"))
    with pytest.raises(RequestError, match="names 'a' with two types"):
        request("--pass_through=a:int64,a:float")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pyarrow.array([b"/a.jpg"]), "binary"),
        (pyarrow.array([["/a.jpg"]]), "list"),
        (pyarrow.array([{"path": "/a.jpg"}]), "struct"),
        (pyarrow.array([1]), "int64"),
    ],
)
def test_a_column_of_uris_that_is_no_text_is_refused_by_its_type(tmp_path, capsys, column, kind):
    pyarrow.parquet.write_table(pyarrow.table({"uri": column}), tmp_path / "in.parquet")
    helpers.job(f"--input={tmp_path}/in.parquet", output=tmp_path / "out", expect=2)
    line = capsys.readouterr().err
    assert "in.parquet: column 'uri' is " + kind in line
    assert "a URI is text: name another column with --uri_column" in line


@pytest.mark.parametrize(
    ("value", "kind"), [(["/a.jpg"], "a list"), ({"a": 1}, "an object"), (7, "a number")]
)
def test_uris_in_json_that_are_no_text_are_refused_by_their_type(tmp_path, capsys, value, kind):
    (tmp_path / "in.jsonl").write_text(json.dumps({"uri": value}) + "\n")
    helpers.job(f"--input={tmp_path}/in.jsonl", output=tmp_path / "out", expect=2)
    assert f"in.jsonl: column 'uri' holds {kind}, and a URI is text" in capsys.readouterr().err
