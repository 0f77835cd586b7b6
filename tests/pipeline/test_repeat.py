"""An output keeps its request, so that a command that names only the output resumes or retries it."""

import json
import os

import pytest

from pipeline import main, repeat, verify
from pipeline.options import parse
from tests import helpers

FLAGS = ("--batch_size=2", "--max_failure_rate=1")


def alone(output, *flags):
    """A command without input and model."""
    return main.main([f"--output={output}", *flags])


def kept(output):
    return json.loads((output / "request.json").read_text())


@pytest.fixture
def photos(tmp_path):
    """A folder of eleven images, the last of which does not exist yet in whole."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(11):
        (folder / f"{seed:02}.jpg").write_bytes(helpers.encoded(seed))
    return folder


@pytest.fixture
def failed(tmp_path):
    """A finished run over a list of six images, two of which were missing and have come since; and what was expected."""
    paths = [tmp_path / f"{seed}.jpg" for seed in range(6)]
    (tmp_path / "list.csv").write_text("url,n\n" + "".join(f"{p},{n}\n" for n, p in enumerate(paths)))
    flags = (f"--input={tmp_path}/list.csv", "--uri_column=url", "--pass_through=n", *FLAGS)
    for seed in (0, 2, 3, 5):
        paths[seed].write_bytes(helpers.encoded(seed))
    helpers.job(*flags, output=tmp_path / "out")
    for seed in (1, 4):
        paths[seed].write_bytes(helpers.encoded(seed))
    helpers.job(*flags, output=tmp_path / "at-once")
    return flags, tmp_path / "out", helpers.contents(tmp_path / "at-once")


def test_retrying_needs_no_more_than_the_output(failed, tmp_path, monkeypatch):
    _, output, at_once = failed
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert alone("../out", "--retry_failures") == 0
    assert helpers.contents(output) == at_once
    assert verify.main([str(output)]) == 0


def test_it_keeps_what_decides_the_output_and_nothing_else(failed, tmp_path):
    _, output, at_once = failed
    flags = kept(output)
    assert flags["input"] == [f"{tmp_path}/list.csv"]
    assert (flags["model"], flags["uri_column"], flags["pass_through"]) == ("untrained/tiny", "url", ["n"])
    assert (flags["batch_size"], flags["image_size"], flags["images_per_shard"]) == (2, helpers.SIDE, 2)
    assert list(flags) == sorted(flags)
    without = {
        "runner",
        "output",
        "report_file",
        "retry_failures",
        "overwrite",
        "dry_run",
        "decode_processes",
    }
    assert not without & set(flags)
    assert at_once["request.json"] == (output / "request.json").read_bytes()  # of another output, and run


def test_workers_and_reports_leave_the_same_request(failed, tmp_path):
    flags, _, at_once = failed
    more = (
        "--direct_num_workers=2",
        "--decode_processes=1",
        f"--report_file={tmp_path}/r",
        "--fetch_threads=3",
    )
    helpers.job(*flags, *more, output=tmp_path / "other")
    assert helpers.contents(tmp_path / "other") == at_once


def test_a_killed_run_is_resumed_by_its_output(photos, tmp_path):
    output = tmp_path / "out"
    helpers.job(f"--input={photos}/", *FLAGS, output=output)
    whole = helpers.contents(output)
    assert sorted(whole)[-2].startswith("receipts/00005-of-00006")
    (output / "receipts/00003-of-00006.json").unlink()
    (output / "manifest.json").unlink()
    assert alone(output) == 0
    assert helpers.contents(output) == whole
    assert alone(output, "--overwrite") == 0
    assert helpers.contents(output) == whole


def test_flags_of_the_command_come_before_those_that_are_kept(failed, capsys):
    _, output, _ = failed
    assert alone(output, "--retry_failures", "--pass_through=url") == 2
    assert "schema.pass_through = ['n'], this run requests ['url']" in capsys.readouterr().err
    assert alone(output, "--retry_failures", "--batch_size=3", "--timeout=5") == 0
    assert (kept(output)["batch_size"], kept(output)["timeout"]) == (3, 5)


def test_lists_replace_the_kept_ones_and_add_up_among_themselves(failed, capsys):
    _, output, _ = failed
    assert alone(output, "--pass_through=url", "--pass_through=m") == 2
    assert "no column 'm'; its columns are url, n" in capsys.readouterr().err
    assert alone(output, "--overwrite", "--pass_through=url", "--pass_through=n:int64") == 0
    assert kept(output)["pass_through"] == ["url", "n:int64"]
    assert alone(output) == 0


@pytest.mark.parametrize("flags", [(), ("--retry_failures",), ("--overwrite",)])
def test_an_output_without_a_request_names_the_flags_that_are_needed(failed, capsys, flags):
    _, output, _ = failed
    (output / "request.json").unlink()
    before = helpers.contents(output)
    assert alone(output, *flags) == 2
    assert "missing --input and --model" in capsys.readouterr().err
    assert main.main(["--output=nowhere", "--model=untrained/tiny"]) == 2
    assert "missing --input; a command with --output and neither of --input" in capsys.readouterr().err
    assert helpers.contents(output) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is not the request of a job"),
        ("[1", "is not the request of a job"),
        (
            '{"input": ["a"], "model": "b", "new_flag": 1}',
            "names --new_flag, which this version does not know",
        ),
    ],
)
def test_a_request_that_is_none_is_refused_and_found(failed, capsys, text, said):
    _, output, _ = failed
    (output / "request.json").write_text(text)
    assert alone(output) == 2
    assert said in capsys.readouterr().err
    assert (verify.main([str(output)]) == 1) == ("not the request" in said)


def test_the_file_of_somebody_else_is_not_written_over(photos, tmp_path, capsys):
    (photos / "request.json").write_text('{"of": "somebody else"}')
    helpers.job(f"--input={photos}/", output=photos, expect=2)
    assert "request.json, which this job did not write" in capsys.readouterr().err


def test_signatures_of_urls_are_not_kept(tmp_path):
    model = "https://example.com/m.npz?X-Amz-Signature=secret&v=1"
    config, _ = parse(["--input=gs://b/in.txt,photos/", f"--model={model}", "--output=out"])
    flags = repeat.flags_of(config, 7)
    assert flags["model"] == "https://example.com/m.npz?v=1"
    assert flags["input"] == ["gs://b/in.txt,photos/"]
    assert flags["working_directory"] == os.getcwd()
    assert flags["images_per_shard"] == 7


def shards(output):
    return sorted(path.name for path in output.glob("receipts/*"))


@pytest.mark.parametrize("has_request", [True, False])
def test_another_batch_size_does_not_change_the_cut(photos, tmp_path, has_request, capsys):
    output = tmp_path / "out"
    helpers.job(f"--input={photos}/", *FLAGS, output=output)
    before = shards(output)
    assert len(before) == 6
    for name in before[1:4]:
        (output / "receipts" / name).unlink()
    if not has_request:
        (output / "request.json").unlink()
    helpers.job(f"--input={photos}/", "--batch_size=5", output=output)
    assert shards(output) == before
    helpers.job(f"--input={photos}/", "--batch_size=5", "--images_per_shard=3", output=output, expect=2)
    assert "leave out --images_per_shard=3, as the output was begun with 2; else" in capsys.readouterr().err
    helpers.job(f"--input={photos}/", "--batch_size=5", "--overwrite", output=output)
    assert len(shards(output)) == 3


def test_an_output_of_an_earlier_version_keeps_its_shards_of_a_thousand(tmp_path):
    """Of two shards only the last is done, which is shorter."""
    (tmp_path / "0.jpg").write_bytes(helpers.encoded(0))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/0.jpg\n" * 1004)
    flags, output = [f"--input={tmp_path}/list.txt", "--batch_size=64"], tmp_path / "out"
    helpers.job(*flags, "--images_per_shard=1000", output=output)
    before = helpers.contents(output)
    for name in ("request.json", "manifest.json", "receipts/00000-of-00002.json"):
        (output / name).unlink()
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == before


def test_relative_inputs_mean_the_same_from_anywhere(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    helpers.job("--input=photos/", "--max_failure_rate=1", output="out")
    (tmp_path / "elsewhere").mkdir()
    before = helpers.contents(tmp_path / "out")
    for folder, output in ((".", "out"), ("elsewhere", "../out"), ("/", f"{tmp_path}/out")):
        monkeypatch.chdir(tmp_path / folder)
        assert alone(output) == 0
        assert helpers.contents(tmp_path / "out") == before
    next((tmp_path / "out" / "receipts").iterdir()).unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert alone("../out", "--report_file=report.json") == 0
    assert helpers.contents(tmp_path / "out") == before
    assert json.loads((tmp_path / "elsewhere" / "report.json").read_text())["features"] == 11


@pytest.mark.parametrize("name", ["a,b.jpg,c.jpg", "with,comma/*", "link/../a,b.jpg"])
def test_names_with_commas_and_links_are_kept_as_they_were_given(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for seed, path in enumerate(("a,b.jpg", "c.jpg", "with,comma/d.jpg", "far/folder/e.jpg", "far/a,b.jpg")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(helpers.encoded(seed))
    (tmp_path / "link").symlink_to(tmp_path / "far" / "folder")
    helpers.job(f"--input={name}", output="out")
    before = helpers.contents(tmp_path / "out")
    monkeypatch.chdir("/")
    assert alone(tmp_path / "out") == 0
    assert helpers.contents(tmp_path / "out") == before


def test_a_directory_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.jpg").write_bytes(helpers.encoded(1))
    monkeypatch.chdir(tmp_path / "work")
    helpers.job("--input=a.jpg", output=tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").rename(tmp_path / "moved")
    assert alone(tmp_path / "out") == 2
    assert f"was begun in {tmp_path}/work" in capsys.readouterr().err


def test_relative_names_of_a_list_are_not_taken_from_another_folder(tmp_path, monkeypatch, capsys):
    for folder, seeds in (("list", ()), ("A", (0, 1)), ("B", (5, 6, 7))):
        (tmp_path / folder).mkdir()
        for name, seed in zip("abc", seeds, strict=False):
            (tmp_path / folder / f"{name}.jpg").write_bytes(helpers.encoded(seed))
    (tmp_path / "list" / "l.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    monkeypatch.chdir(tmp_path / "A")
    flags = (f"--input={tmp_path}/list/l.txt", "--max_failure_rate=1")
    helpers.job(*flags, output=tmp_path / "out")
    monkeypatch.chdir(tmp_path / "B")
    helpers.job(*flags, "--retry_failures", output=tmp_path / "out", expect=2)
    assert "folder differs" in capsys.readouterr().err
    (tmp_path / "A" / "c.jpg").write_bytes(helpers.encoded(2))
    assert alone(tmp_path / "out", "--retry_failures") == 0  # where it was begun
    assert [record["key"][0] for record in helpers.read_all(tmp_path / "out")] == [
        b"a.jpg",
        b"b.jpg",
        b"c.jpg",
    ]


@pytest.mark.parametrize(
    ("input_", "model"), [([1], "untrained/tiny"), ("abc", "untrained/tiny"), (["a"], 5), (None, "x")]
)
def test_a_request_of_wrong_types_is_refused_by_its_path(tmp_path, capsys, input_, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "request.json").write_text(json.dumps({"input": input_, "model": model}))
    assert alone(tmp_path / "out") == 2
    assert "request.json is not the request of a job" in capsys.readouterr().err
