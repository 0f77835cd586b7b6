"""The command: what it reads, refuses and says, and the bytes that it writes."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline.look import command, page, scan
from pipeline.outputs import committed
from tests import helpers, stores
from tests.golden.output.make import RUNS
from tests.look.conftest import FAILED, KEPT, KEYS, data_of, look
from transforms.storage import door


@pytest.fixture
def mine(folder, tmp_path):
    """A copy of the output and its input that a test may change."""
    return shutil.copytree(folder, tmp_path / "mine", ignore=shutil.ignore_patterns("*.html"))


def test_the_same_output_gives_the_same_bytes(folder, whole):
    """In another process, too, whose hashes are others."""
    flags = [f"{folder}/out", f"--input={folder}/in/*.tfrecord", f"--report_file={folder}/report.json"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.look", *flags, f"--to={folder}/again.html"],
        cwd=helpers.REPO,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (folder / "again.html").read_bytes() == whole.read_bytes()


def test_what_ran(whole, bare, folder):
    facts = dict(data_of(whole)["facts"])
    report = json.loads((folder / "report.json").read_text())
    assert facts["Model"] == "untrained/tiny"
    assert facts["Precision"] == "float32"
    assert facts["Inputs"].startswith("24 in 2 shards: a.tfrecord … b.tfrecord")
    assert facts["Failures"] == "1 (4.17%)"
    assert facts["Time"].endswith(f"with {report['runner']}")
    assert float(facts["Speed"].split()[0]) == pytest.approx(24 / report["seconds"], rel=0.1)
    assert "tensorflow" in facts["Versions"]
    assert "Time" not in dict(data_of(bare)["facts"])
    (note,) = [note for note in data_of(bare)["notes"] if "--report_file" in note]
    assert "run the job with --report_file=PATH" in note
    assert not [note for note in data_of(whole)["notes"] if "--report_file" in note]


def test_the_verdict_of_the_run_is_told_in_its_words(mine, folder):
    report = json.loads((mine / "report.json").read_text())
    report["verdict"] = {
        "stage": "decode",
        "share": 0.71,
        "advice": "--decode_processes=4 would use all CPUs",
    }
    report["shards_done_before"] = 1
    (mine / "report.json").write_text(json.dumps(report))
    facts = dict(data_of(look(mine, f"--report_file={mine}/report.json"))["facts"])
    assert (
        facts["Held back by"] == "decoding images (71% of the time); --decode_processes=4 would use all CPUs"
    )
    assert facts["Earlier runs"].startswith("1 of 2 shards")


def test_failures_with_examples_and_remedies(whole):
    (failure,) = data_of(whole)["failures"]
    assert (failure["code"], failure["count"]) == ("not_image", 1)
    assert failure["examples"][0][0] == KEYS[FAILED].decode()
    assert failure["meaning"]
    assert failure["remedy"]


def test_examples_of_a_code_are_few_and_from_few_ledgers(tmp_path, monkeypatch):
    broken = [helpers.example({"image/encoded": b"<html>"})] * 5 + [helpers.example({"x": b""})]
    for shard in range(4):
        good = [helpers.image_example(shard)]
        helpers.write_tfrecord(
            tmp_path / "in" / f"{shard}.tfrecord", good + (broken if shard else broken[-1:])
        )
    helpers.job(f"--input={tmp_path}/in/*.tfrecord", "--max_failure_rate=1", output=tmp_path / "out")
    found = data_of(look(tmp_path))["failures"]
    assert [(one["code"], one["count"], len(one["examples"])) for one in found] == [
        ("not_image", 15, 3),
        ("missing_feature", 4, 3),
    ]


def test_the_sample_is_evenly_spread_and_figures_are_of_all(folder):
    data = data_of(look(folder, "--limit=5", name="five.html"))
    assert data["sampled"] == 5
    every = [KEPT[index * 23 // 5].decode("utf-8", "backslashreplace") for index in range(5)]
    assert data["keys"][:5] == every
    assert data["features"] == sum(data["norms"]["counts"]) == 23
    assert data["exact"]["total"] == 1
    assert {data["keys"][index] for index in data["exact"]["groups"][0][0]} == {
        KEPT[0].decode(),
        KEPT[19].decode(),
    }
    assert len(data["thumbnails"]) == len(data["keys"]) == len(data["neighbours"])
    assert all(data["thumbnails"])


@pytest.mark.parametrize("gone", ["file", "picture"])
def test_pictures_that_cannot_be_read_any_more(mine, gone, capsys):
    path = mine / "in" / "b.tfrecord"
    if gone == "file":
        path.write_bytes(b"")
        expected = [True] * 13 + [False] * 10
    else:
        data = path.read_bytes()
        other = data.replace(b"JFIF", b"JFIX", 1)
        assert other != data
        path.write_bytes(other)
        expected = None
    thumbnails = [bool(one) for one in data_of(look(mine))["thumbnails"]]
    assert thumbnails == expected or (
        expected is None and thumbnails.count(False) == 1 and not thumbnails[13]
    )
    count = thumbnails.count(False)
    assert f"{count} of 23 pictures cannot be read any more" in capsys.readouterr().err


def test_image_files_need_no_input(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(5):
        (tmp_path / "photos" / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    helpers.job(f"--input={tmp_path}/photos/", "--images_per_shard=2", output=tmp_path / "out")
    assert all(data_of(look(tmp_path, pictures=False))["thumbnails"])


def test_an_unfinished_output(mine, capsys):
    (mine / "out" / "manifest.json").unlink()
    (mine / "out" / "receipts" / "00000-of-00002.json").unlink()
    look(mine, expect=2)
    assert "--partial" in capsys.readouterr().err
    data = data_of(look(mine, "--partial"))
    assert data["features"] == 10
    assert all(data["thumbnails"])
    assert any("not finished" in note for note in data["notes"])


@pytest.mark.parametrize(
    ("sizes", "expect"),
    [
        ({"logits": 9, "embedding": 4, "top_k/class": 5}, "embedding"),
        ({"top_k/class": 5, "logits": 9}, "logits"),
        ({"top_k/class": 5, "top_k/probability": 5}, None),
    ],
)
def test_which_vectors_a_page_is_about(mine, capsys, sizes, expect):
    for path in (mine / "out" / "receipts").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "outputs": sizes}))
    if expect:
        assert scan.vector_of(committed(f"{mine}/out")) == expect
    else:
        look(mine, expect=2)
        assert "neither embedding nor logits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "missing OUTPUT"),
        (("OUT", "--to=photo.jpg"), "a file that ends in .html"),
        (("OUT", "--limit=5001"), "at most 5000 pictures"),
        (("OUT", "--limit=0"), "0 is not a positive number"),
        (("OUT", "--threshold=1.5"), "1.5 is not a cosine above 0 and up to 1"),
        (("OUT", "--lable=x"), "did you mean --label"),
        (("OUT", "--label=colour"), "copied no such feature; it passed through number, label"),
        (("OUT", "--report_file=missing.json"), "is not the report of a run"),
        (("OUT", "--report_file=OUT/manifest.json"), "is not the report of a run"),
        (("OUT", "--report_file=REPORT"), "is about 1 inputs"),
        (("OUT", "--input=IN/a.tfrecord"), "is not the input of"),
        (("OUT", "--to=/dev/null/look.html"), "--to=/dev/null/look.html cannot be written"),
        (("nowhere",), "nowhere holds no output of this job"),
    ],
)
def test_wrong_requests_end_with_2_and_the_reason(folder, tmp_path, capsys, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**report, "inputs": 1}))
    names = {"OUT": folder / "out", "IN": folder / "in", "REPORT": tmp_path / "other.json"}
    for name, path in names.items():
        flags = [flag.replace(name, str(path)) for flag in flags]
    assert command.main(flags) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.parametrize("name", [b"out\xff", b"\xed\xb0\x80"])
def test_an_output_may_have_any_name(mine, name):
    output = mine / os.fsdecode(name)
    (mine / "out").rename(output)
    assert command.main([str(output), f"--to={mine}/look.html"]) == 0
    data = data_of(mine / "look.html")
    shown = os.fsencode(output).decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace")
    assert data["output"] == dict(data["facts"])["Output"] == shown.decode()
    assert f"<title>Features in {shown.decode()}</title>" in (mine / "look.html").read_text()


def test_no_text_keeps_a_page_from_being_written():
    data = {"keys": [], "notes": ["half \udcff", "whole \U0001f600"]}
    page_bytes = page.render(data, title="\ud800 <b>")
    assert json.loads(page_bytes.decode().split('id="data">')[1].split("</script>")[0]) == data
    assert b"<title>\\ud800 &lt;b&gt;</title>" in page_bytes


def test_a_damaged_file_ends_it_and_leaves_an_older_page_as_it_was(mine, capsys):
    path = next((mine / "out").glob("features-00001*"))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    (mine / "look.html").write_text("older")
    look(mine, expect=1)
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in error
    assert "pipeline.verify" in error
    assert (mine / "look.html").read_text() == "older"
    assert not [path for path in mine.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("run", sorted(RUNS))
def test_outputs_of_earlier_versions(tmp_path, run):
    output = helpers.REPO / "tests" / "golden" / "output" / "outputs" / run
    assert command.main([str(output), f"--to={tmp_path}/look.html"]) == 0
    data = data_of(tmp_path / "look.html")
    assert data["features"] == helpers.manifest(output)["features"]


@pytest.mark.parametrize("kind", [stores.gcs, stores.s3])
def test_from_a_store_to_a_store(folder, whole, kind):
    with kind() as store:
        store.use()
        features, pictures = store.folder(), store.folder()
        stores.upload(features, helpers.contents(folder / "out"))
        stores.upload(pictures, helpers.contents(folder / "in"))
        flags = [features, f"--input={pictures}/*.tfrecord", f"--to={features}/look.html", *store.flags]
        assert command.main(flags) == 0
        text = door.read_bytes(f"{features}/look.html").decode()
        data = json.loads(text.split('id="data">')[1].split("</script>")[0])
        assert data["thumbnails"] == data_of(whole)["thumbnails"]


def test_neither_tensorflow_nor_scikit_learn_is_loaded_before_it_is_needed():
    program = (
        "import sys, pipeline.look.command; print([n for n in ('tensorflow', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
