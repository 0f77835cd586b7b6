"""WebDataset tars: samples and their keys, damage, whole jobs, and what img2dataset itself writes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import tarfile
from pathlib import Path

import google_crc32c
import pytest
from backports import zstd

from pipeline import verify
from tests import engines, helpers
from tests.http_server import HttpServer
from tests.records.test_tar import archive, spans, special
from transforms import counters
from transforms.elements import EVERY, Encoded, Failure
from transforms.errors import ItemError
from transforms.imaging import preprocess
from transforms.records import examples, tar, tar_headers
from transforms.sources import finding
from transforms.sources.base import BadInput, Cutting, Reading, ReadSettings
from transforms.sources.webdataset import KIND, TarFile

LENIENT = "--max_failure_rate=1"


def write(path: Path, members, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = archive(members, **how)
    packers = {
        ".gz": gzip.compress,
        ".tgz": gzip.compress,
        ".bz2": bz2.compress,
        ".txz": lzma.compress,
        ".zst": zstd.compress,
    }
    path.write_bytes(packers.get(path.suffix, bytes)(data))
    return path


def sample(key, seed, kind="jpg"):
    """The members of a sample as img2dataset writes them."""
    data = helpers.encoded(seed, {"jpg": "JPEG", "png": "PNG"}[kind])
    return [
        (f"{key}.{kind}", data),
        (f"{key}.txt", f"text {seed}".encode()),
        (f"{key}.json", b'{"n": %d}' % seed),
    ]


def source(path) -> TarFile:
    status = os.stat(path)
    return TarFile(str(path), status.st_size, status.st_mtime)


def items(path, due=EVERY, **settings):
    return list(source(path).items(Reading(Path(path).name, ReadSettings(2, **settings), due)))


def keys(found):
    return [one.key.decode() for one in found]


def codes(found):
    return [one.code if isinstance(one, Failure) else "" for one in found]


def passed(item):
    features = examples.Features.FromString(item.passed)
    return {name: feature.bytes_list.value[0] for name, feature in features.feature.items()}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.txz", "a.tar.zst"])
def test_samples_in_order_with_what_is_passed_through(tmp_path, name):
    path = write(tmp_path / name, [*sample("0", 0), *sample("1", 1)[:2], *sample("2", 2, "png")])
    found = items(path, pass_through=("json", "txt"))
    assert keys(found) == [f"{name}#{n}" for n in "012"]
    assert [one.position for one in found] == [0, 1, 2]
    assert [one.data for one in found] == [helpers.encoded(0), helpers.encoded(1), helpers.encoded(2, "PNG")]
    assert [passed(one) for one in found] == [
        {"json": b'{"n": 0}', "txt": b"text 0"},
        {"txt": b"text 1"},
        {"json": b'{"n": 2}', "txt": b"text 2"},
    ]
    assert passed(items(path)[0]) == {}


def test_the_key_goes_up_to_the_first_dot_and_has_the_folder(tmp_path):
    names = ["a/b.c.jpg", "./d.JPG", "x.y/z.seg.png", "e.txt", "e.Jpeg", "f" * 120 + "/g.jpg", "é.jpg"]
    path = write(tmp_path / "a.tar", [(name, b"x") for name in names])
    expected = ["a/b", "./d", "x.y/z", "e", "f" * 120 + "/g", "é"]
    assert keys(items(path)) == [f"a.tar#{key}" for key in expected]
    assert keys(items(path, key_feature="__key__")) == expected


def test_the_image_is_the_first_with_a_suffix_of_images_or_the_one_that_is_named(tmp_path):
    members = [("a.json", b"{}"), ("a.jpg", b"first"), ("a.mask.png", b"mask"), ("b.mask.png", b"lone")]
    path = write(tmp_path / "a.tar", members)
    assert [one.data for one in items(path)] == [b"first", b"lone"]
    assert [one.data for one in items(path, image_feature="mask.png")] == [b"mask", b"lone"]
    found = items(path, image_feature="jpg")
    assert codes(found) == ["", "missing_feature"]
    assert "no member 'jpg'; there are mask.png (sample b at offset" in found[1].message


def completed(path, due=EVERY, **settings):
    """The source that reading to the end returns."""
    reading = source(path).items(Reading(Path(path).name, ReadSettings(2, **settings), due))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def test_images_beside_the_first_are_counted_unless_they_are_asked_for(tmp_path):
    members = [(f"{n}.{side}.jpg", b"x") for n in range(3) for side in ("left", "right", "top")]
    members += [("3.json", b"{}"), ("3.jpg", b"x"), ("3.txt", b"t")]
    path = write(tmp_path / "a.tar", members)
    assert source(path).unused_images == 0
    assert completed(path).unused_images == completed(path, due={1}).unused_images == 6
    assert completed(path, pass_through=("right.jpg",)).unused_images == 3
    assert completed(path, pass_through=("right.jpg",), key_feature="top.jpg").unused_images == 0
    assert completed(path, image_feature="right.jpg").unused_images == 0
    assert completed(path).identity() == {**source(path).identity(), "crc32c": completed(path).crc32c}


def test_names_with_many_dots_are_one_sample_as_webdataset_has_it(tmp_path):
    members = [(f"frame.{n:05d}.jpg", b"%d" % n) for n in range(20_000)]
    (found,) = items(write(tmp_path / "a.tar", members, format="ustar", mtime=1))
    assert found.data == b"0"
    (found,) = items(tmp_path / "a.tar", image_feature="png")
    assert "no member 'png'; there are 00000.jpg, " in found.message
    assert "00009.jpg, ... (sample frame" in found.message


def test_a_member_can_be_the_key(tmp_path):
    members = [("a.jpg", b"x"), ("a.id", b" k1\n"), ("b.jpg", b"x"), ("c.jpg", b"x"), ("c.id", b"\n")]
    found = items(write(tmp_path / "a.tar", members), key_feature="id")
    assert keys(found) == ["k1", "a.tar#b", "a.tar#c"]
    assert codes(found) == ["", "missing_feature", "missing_feature"]


def test_what_is_no_sample_and_what_has_no_image(tmp_path):
    members = [
        special("folder", tarfile.DIRTYPE),
        ("folder/._a.jpg", b"AppleDouble"),
        ("__MACOSX/folder/a.jpg", b"x"),
        ("__index__/x.json", b"x"),
        ("folder/a.jpg", b"image"),
        ("folder/a.txt", b"text"),
        ("README", b"x"),
        ("b.json", b"{}"),
        special("c.jpg", tarfile.SYMTYPE, linkname="folder/a.jpg"),
        ("d.jpg", b"image"),
        special("d.txt", tarfile.LNKTYPE, linkname="folder/a.txt"),
    ]
    found = items(write(tmp_path / "a.tar", members), pass_through=("txt",))
    assert keys(found) == [f"a.tar#{key}" for key in ("folder/a", "README", "b", "c", "d")]
    assert codes(found) == ["", *["missing_feature"] * 4]
    assert "no member with the suffix of an image; there are json" in found[2].message
    assert "member 'c.jpg' is a link" in found[3].message
    assert "member 'd.txt' is a link" in found[4].message


def test_a_key_that_comes_again_is_another_sample_with_a_key_of_its_own(tmp_path):
    members = [(f"{name}.jpg", name.encode() + b"%d" % n) for n, name in enumerate("aabab")]
    path = write(tmp_path / "a.tar", members)
    found = items(path)
    assert [one.data for one in found] == [b"a0", b"a1", b"b2", b"a3", b"b4"]
    assert keys(found) == ["a.tar#a", "a.tar#a#1", "a.tar#b", "a.tar#a#3", "a.tar#b#4"]
    assert items(path, due={3, 4}) == found[3:]


def test_members_of_samples_that_are_not_due_are_not_held(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", [one for n in range(4) for one in sample(str(n), n)])
    held = []
    read = tar._Source.read

    def counted(self, count):
        data = read(self, count)
        held.append(len(data))
        return data

    monkeypatch.setattr(tar._Source, "read", counted)
    found = items(path, due={2}, pass_through=("txt",))
    assert [(one.position, one.data, passed(one)) for one in found] == [
        (2, helpers.encoded(2), {"txt": b"text 2"})
    ]
    assert [size for size in held if size > 512] == [len(helpers.encoded(2))]


def test_a_member_beyond_the_limit_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_headers, "MAX_MEMBER_BYTES", 100)
    found = items(write(tmp_path / "a.tar", [("a.jpg", b"x" * 101), ("b.jpg", b"x" * 100)]))
    assert codes(found) == ["missing_feature", ""]
    assert "member 'a.jpg' has 101 bytes, more than 100" in found[0].message


def test_units_are_bytes_and_the_sum_is_of_the_whole_file(tmp_path):
    for name in ("a.tar", "a.tar.gz"):
        path = write(tmp_path / name, [one for n in range(4) for one in sample(str(n), n)])
        before = counters.PROCESS.counts().units
        known = completed(path)
        assert counters.PROCESS.counts().units - before == path.stat().st_size
        assert known.crc32c == f"{google_crc32c.value(path.read_bytes()):08x}"
        assert known.identity() == {
            "kind": "webdataset",
            "size_bytes": path.stat().st_size,
            "modified": path.stat().st_mtime,
            "crc32c": known.crc32c,
        }
        assert known.change(known.identity()) == ""
        assert known.change({**known.identity(), "modified": 1.0}) == ""
        assert known.change({**known.identity(), "modified": 1.0, "crc32c": "0"}) == "crc32c"
        assert source(path).change({**known.identity(), "kind": "x"}) == "kind"


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damage_takes_a_place_and_nothing_else(tmp_path, seed, suffix):
    dice = random.Random(seed)
    content = bytearray(archive([one for n in range(12) for one in sample(f"{n:03d}", n)]))
    ends = [end for _, end in spans(bytes(content))[::3]]  # of the images
    at, count = dice.randrange(len(content) - 10_240), dice.choice((1, 700, 4_000))
    match dice.choice(("flip", "cut", "insert", "delete")):
        case "flip":
            content[at] ^= 1 << dice.randrange(8)
        case "cut":
            del content[at:]
        case "insert":
            content[at:at] = dice.randbytes(count)
        case "delete":
            del content[at : at + count]
    path = tmp_path / f"a.tar{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    found = items(path, pass_through=("json",))
    assert [one.position for one in found] == list(range(len(found)))
    assert len(set(keys(found))) == len(found)
    for due in ({0, 3}, {1, 5, 9}, set()):
        assert items(path, due, pass_through=("json",)) == [one for one in found if one.position in due]
    whole = {one.data for one in found if isinstance(one, Encoded)}
    assert all(helpers.encoded(n) in whole for n, end in enumerate(ends) if end <= at)


# finding


def settings(**more):
    return Cutting(ReadSettings(2, **more), 1000, None, "")


def test_tars_are_told_by_name_and_by_their_first_bytes(tmp_path):
    write(tmp_path / "in" / "a.tar", sample("0", 0))
    write(tmp_path / "in" / "b.tgz", sample("0", 0))
    write(tmp_path / "in" / "c.TAR.GZ", sample("0", 0))
    (tmp_path / "in" / "a_stats.json").write_text("{}")
    (tmp_path / "in" / "a.parquet").write_bytes(b"PAR1")
    found = finding.find([f"{tmp_path}/in"], "auto", ReadSettings(2))
    assert (found.kind.name, len(found.files)) == ("webdataset", 3)
    assert sorted(found.left_out.values()) == [".json", ".parquet"]
    for name in ("unnamed", "unnamed.gz"):
        path = write(tmp_path / name, sample("0", 0), format="gnu")
        assert finding.find([str(path)], "auto", ReadSettings(2)).kind.name == "webdataset"
    (tmp_path / "in" / "photo.jpg").write_bytes(helpers.encoded(0))
    with pytest.raises(BadInput, match="--input mixes kinds of files"):
        finding.find([f"{tmp_path}/in"], "auto", ReadSettings(2))
    found = finding.find([f"{tmp_path}/in"], "images", ReadSettings(2))
    assert [file.path for file in found.files] == [f"{tmp_path}/in/photo.jpg"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"pass_through": ("cls",)}, "no member 'cls' in .*a.tar; there are jpg, json, txt: name them with"),
        ({"image_feature": "JPG"}, "no member 'JPG'"),
        ({"key_feature": "id"}, "no member 'id'"),
    ],
)
def test_members_that_no_sample_has_are_refused_at_once(tmp_path, asked, said):
    path = write(tmp_path / "a.tar", [one for n in range(3) for one in sample(str(n), n)])
    files = finding.find([str(path)], "auto", ReadSettings(2)).files
    assert len(KIND.cut(files, settings(pass_through=("json",), key_feature="__key__")).sources) == 1
    with pytest.raises(BadInput, match=said):
        KIND.cut(files, settings(**asked))


def test_a_sample_with_several_images_is_announced(tmp_path):
    names = [f"Screenshot 2024.01.{n:02d} at 10.11.jpg" for n in range(6)]
    path = write(tmp_path / "a.tar", [*sample("0", 0), *((name, b"x") for name in names)])
    files = finding.find([str(path)], "auto", ReadSettings(2)).files
    (note,) = KIND.cut(files, settings()).notes
    assert (
        f"{path}: sample 'Screenshot 2024' holds several images, of which 01.00 at 10.11.jpg is used" in note
    )
    assert (
        "and 01.01 at 10.11.jpg, 01.02 at 10.11.jpg, 01.03 at 10.11.jpg, ... not: --image_feature names"
        in note
    )
    assert KIND.cut(files, settings(image_feature="jpg")).notes == ()
    write(path, [*sample("0", 0), *sample("1", 1)])
    assert KIND.cut(files, settings()).notes == ()


def test_what_is_no_tar_or_has_no_images_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    path.write_text("<html>not found</html>" * 100)
    files = finding.find([str(path)], "auto", ReadSettings(2)).files
    with pytest.raises(BadInput, match=r"a\.tar is not a tar archive"):
        KIND.cut(files, settings())
    write(path, [(f"{n}.mp3", b"x") for n in range(3)])
    with pytest.raises(BadInput, match=r"no member with the suffix of an image in .*; there are mp3"):
        KIND.cut(files, settings())


# whole jobs


@pytest.fixture
def tars(tmp_path):
    """Two tars of 5 and 3 pictures with running seeds, with texts; a glob for them."""
    write(tmp_path / "in" / "00000.tar", [one for n in range(5) for one in sample(f"{n:09d}", n)])
    write(tmp_path / "in" / "00001.tar.gz", [one for n in range(5, 8) for one in sample(f"{n:09d}", n)])
    return f"{tmp_path}/in/*.tar*"


def test_the_same_features_as_of_tfrecords(tars, tmp_path):
    records = helpers.write_shards(tmp_path / "records", (5, 3))
    flags = ["--batch_size=2"]
    helpers.job(f"--input={records}", *flags, output=tmp_path / "records-out")
    helpers.job(f"--input={tars}", *flags, "--pass_through=txt,json", output=tmp_path / "out")
    found, expected = helpers.read_all(tmp_path / "out"), helpers.read_all(tmp_path / "records-out")
    assert [one["key"] for one in found] == [
        [f"{'00000.tar' if n < 5 else '00001.tar.gz'}#{n:09d}".encode()] for n in range(8)
    ]
    for n, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one["embedding"].tobytes() == other["embedding"].tobytes()
        assert (one["image/sha256"], one["txt"]) == (other["image/sha256"], [b"text %d" % n])
    assert verify.main([str(tmp_path / "out")]) == verify.COMPLETE


def test_images_that_are_not_used_are_said_and_kept_in_the_receipts(tmp_path, capsys):
    pair = [(f"0.{side}.jpg", helpers.encoded(n)) for n, side in enumerate(("left", "right"))]
    write(tmp_path / "in" / "0.tar", pair)
    write(tmp_path / "in" / "1.tar", [*sample("1", 1), ("2.left.jpg", b"no image"), *pair])
    output, report = tmp_path / "out", tmp_path / "report.json"
    flags = (f"--input={tmp_path}/in", f"--report_file={report}")
    helpers.job(*flags, output=output)
    said = capsys.readouterr().err
    assert (
        "0.tar: sample '0' holds several images, of which left.jpg is used, as it comes first, and right.jpg not"
        in said
    )
    assert "2 images lie in tars beside the first one of a sample and are not used: --image_feature" in said
    assert f"unused_images in {output}/receipts says how many each tar has" in said
    counts = [json.loads(path.read_bytes())["unused_images"] for path in sorted(output.glob("receipts/*"))]
    assert (counts, helpers.manifest(output)["unused_images"]) == ([1, 1], 2)
    assert json.loads(report.read_text())["unused_images"] == 2
    assert verify.main([str(output)]) == verify.COMPLETE
    whole = helpers.contents(output)
    helpers.job(*flags, "--retry_failures", output=output)
    assert helpers.contents(output) == whole
    # Receipts of earlier versions have no count, and stay as they are.
    for path in output.glob("receipts/*"):
        path.write_text(path.read_text().replace(',\n "unused_images": 1', ""))
    (output / "manifest.json").unlink()
    before = helpers.contents(output)
    capsys.readouterr()
    helpers.job(*flags, output=output)
    assert "unused_images" not in helpers.manifest(output)
    assert {n: b for n, b in helpers.contents(output).items() if n != "manifest.json"} == before
    assert "images lie in tars" not in capsys.readouterr().err


def test_a_job_resumes_and_refuses_other_tars(tars, tmp_path, capsys):
    output = tmp_path / "out"
    helpers.job(f"--input={tars}", output=output)
    whole = helpers.contents(output)
    (output / "receipts" / "00001-of-00002.json").unlink()
    os.utime(tmp_path / "in" / "00000.tar", (1, 1))
    helpers.job(f"--input={tars}", output=output)
    assert helpers.contents(output) == whole
    path = tmp_path / "in" / "00000.tar"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    helpers.job(f"--input={tars}", output=output, expect=2)
    assert "(crc32c differs)" in capsys.readouterr().err
    helpers.job(f"--input={tars}", "--split_bytes=1MiB", output=tmp_path / "other", expect=2)
    assert "--split_bytes cuts TFRecord files" in capsys.readouterr().err
    helpers.job(f"--input={tars}", "--dry_run", output=tmp_path / "dry")
    assert not (tmp_path / "dry").exists()


def test_failures_are_tried_again_and_damage_stays(tars, tmp_path, monkeypatch, decoding_here):
    path = tmp_path / "in" / "00000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as file:
        damaged = file.getmember("000000003.jpg")
        emptied = file.getmember("000000001.jpg")
    data[damaged.offset_data - 500] ^= 1  # in its header
    data[emptied.offset_data : emptied.offset_data + 10] = b"not a JPEG"
    path.write_bytes(data)
    flags = [f"--input={tars}", "--batch_size=2", "--pass_through=txt", LENIENT]
    helpers.job(*flags, output=tmp_path / "at-once")
    ledger = helpers.read_ledger(tmp_path / "at-once")
    assert [(line["key"], line["position"], line["code"]) for line in ledger] == [
        ("00000.tar#000000001", 1, "not_image"),
        (f"00000.tar[{damaged.offset}]#3", 3, "damaged_record"),
        ("00000.tar#000000003", 4, "missing_feature"),
    ]
    original, bad = preprocess.decode, {helpers.encoded(n) for n in (0, 4, 6)}

    def failing(data, *rest):
        if data in bad:
            raise ItemError("truncated", "a decoder of another day")
        return original(data, *rest)

    monkeypatch.setattr(preprocess, "decode", failing)
    output = tmp_path / "out"
    helpers.job(*flags, output=output)
    assert helpers.manifest(output)["failures_by_code"]["truncated"] == 3
    bad.clear()
    helpers.job(*flags, "--retry_failures", output=output)
    assert helpers.contents(output) == helpers.contents(tmp_path / "at-once")
    assert verify.main([str(output)]) == verify.COMPLETE


# what others write and read


def img2dataset_python() -> Path:
    """The interpreter of an environment with img2dataset, which brings WebDataset along; made once and kept."""
    return engines.environment("img2dataset-1.47.0", "img2dataset==1.47.0")


KEYS = """
import json, sys, webdataset
for path in sys.argv[1:]:
    for sample in webdataset.WebDataset(path, shardshuffle=False):
        print(json.dumps([sample["__key__"], sorted(name for name in sample if not name.startswith("__"))]))
"""


def webdataset_reads(*paths):
    command = [str(img2dataset_python()), "-c", KEYS, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_webdataset_finds_the_same_samples(tmp_path):
    names = [
        "a/b.c.jpg",
        "a/b.JSON",
        "./d.jpg",
        "x.y/z.jpg",
        "f" * 120 + "/g.jpg",
        "é.jpg",
        "__index__",
        "h.jpg",
    ]
    for format in ("gnu", "pax"):
        path = write(tmp_path / f"{format}.tar", [(name, b"{}") for name in names], format=format)
        found = items(path, key_feature="__key__", pass_through=("json",))
        assert keys(found) == [key for key, _ in webdataset_reads(path)]


def test_what_img2dataset_writes(tmp_path):
    rows = [{"url": f"/file/{seed}.jpg", "caption": f"picture {seed}"} for seed in range(7)]
    with HttpServer() as server:
        server.files = {row["url"]: helpers.encoded(n) for n, row in enumerate(rows) if n != 4}
        lines = "".join(f"{server.url(row['url'])},{row['caption']}\n" for row in rows)
        (tmp_path / "list.csv").write_text("url,caption\n" + lines)
        flags = {
            "url_list": tmp_path / "list.csv",
            "input_format": "csv",
            "caption_col": "caption",
            "output_folder": tmp_path / "written",
            "output_format": "webdataset",
            "number_sample_per_shard": 4,
            "processes_count": 1,
            "thread_count": 2,
            "resize_mode": "no",
            "enable_wandb": False,
        }
        command = [str(img2dataset_python().with_name("img2dataset"))]
        command += [f"--{name}={value}" for name, value in flags.items()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    written = sorted((tmp_path / "written").glob("*.tar"))
    assert [path.name for path in written] == ["00000.tar", "00001.tar"]
    report = tmp_path / "report.json"
    helpers.job(
        f"--input={tmp_path}/written",
        "--pass_through=txt,json",
        "--key_feature=__key__",
        f"--report_file={report}",
        output=tmp_path / "out",
    )
    found = helpers.read_all(tmp_path / "out")
    assert [one["key"][0].decode() for one in found] == [key for key, _ in webdataset_reads(*written)]
    assert sorted(one["txt"][0].decode() for one in found) == [f"picture {n}" for n in range(7) if n != 4]
    assert all(json.loads(one["json"][0])["status"] == "success" for one in found)
    assert not list((tmp_path / "out").glob("failures-*"))
    left_out = json.loads(report.read_text())["left_out"]
    assert set(left_out.values()) == {".parquet", ".json"}
    helpers.job(f"--input={tmp_path}/written/{{00000..00001}}.tar", output=tmp_path / "range")
    assert len(helpers.read_all(tmp_path / "range")) == 6
    assert verify.main([str(tmp_path / "out")]) == verify.COMPLETE
