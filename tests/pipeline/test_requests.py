"""A wrong request: exit code 2, one message that says what, where and what to do, and nothing is started."""

import json
import os

import pytest

from pipeline import options
from tests import helpers


def refusal(capsys, *flags, output):
    helpers.job(*flags, output=output, expect=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    before, _, reason = captured.err.partition("error: ")
    lines = [line for line in before.splitlines() if not line.startswith(("I0", "E0", "WARNING: All"))]
    assert not lines or (len(lines) == 1 and lines[0].startswith("1 of 1 shard to do with FnApiRunner: "))
    assert reason.strip()
    assert not list(output.glob("features-*")) if output.is_dir() else True
    return reason


@pytest.fixture
def records_file(tmp_path):
    return helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(0)])


def test_no_file_matches(tmp_path, capsys):
    line = refusal(capsys, f"--input={tmp_path}/none-*.tfrecord", output=tmp_path / "out")
    assert "none-*.tfrecord: no file matches" in line


def test_a_feature_that_does_not_exist(tmp_path, capsys, records_file):
    line = refusal(capsys, f"--input={records_file}", "--image_feature=image/raw", output=tmp_path / "out")
    assert "'image/raw'" in line
    assert "image/class/label, image/encoded, image/filename" in line
    line = refusal(capsys, f"--input={records_file}", "--pass_through=lable", output=tmp_path / "out")
    assert "'lable'" in line


@pytest.mark.parametrize("content", [b"not a TFRecord " * 100, b"\x00" * 5000])
def test_a_file_that_is_no_tfrecord(tmp_path, capsys, content):
    (tmp_path / "in.tfrecord").write_bytes(content)
    line = refusal(capsys, f"--input={tmp_path}/in.tfrecord", output=tmp_path / "out")
    assert "is not a TFRecord file" in line


def test_a_tfrecord_of_something_else(tmp_path, capsys):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [b"\xff\xff plain bytes"])
    assert "not a tf.Example" in refusal(capsys, f"--input={path}", output=tmp_path / "out")


def test_a_file_of_unknown_kind(tmp_path, capsys):
    (tmp_path / "data.bin").write_bytes(b"whatever it is" * 10)
    line = refusal(capsys, f"--input={tmp_path}/data.bin", output=tmp_path / "out")
    assert "--input_format=" in line


def test_kinds_mixed(tmp_path, capsys, records_file):
    (tmp_path / "list.txt").write_text("/a.jpg\n")
    line = refusal(capsys, f"--input={records_file},{tmp_path}/list.txt", output=tmp_path / "out")
    assert "mixes kinds" in line


def test_a_url_as_input(tmp_path, capsys):
    line = refusal(
        capsys, "--input=https://u:p@example.com/a.jpg?X-Amz-Signature=secret", output=tmp_path / "out"
    )
    assert "put URLs into a text file" in line
    assert "secret" not in line
    assert "u:p" not in line


def test_an_empty_list(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("\n\n")
    assert "lists no image" in refusal(capsys, f"--input={tmp_path}/list.txt", output=tmp_path / "out")


def test_a_column_that_does_not_exist(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("url,caption\n/a.jpg,x\n")
    line = refusal(capsys, f"--input={tmp_path}/list.csv", output=tmp_path / "out")
    assert "no column 'uri'; its columns are url, caption" in line


def test_a_list_that_is_no_parquet(tmp_path, capsys):
    (tmp_path / "list.parquet").write_text("hello")
    line = refusal(capsys, f"--input={tmp_path}/list.parquet", output=tmp_path / "out")
    assert "not a Parquet file" in line


def test_an_output_that_cannot_be_written(tmp_path, capsys, records_file):
    (tmp_path / "file").write_text("in the way")
    line = refusal(capsys, f"--input={records_file}", output=tmp_path / "file" / "out")
    assert "--output=" in line
    assert "a part of that path is a file: name another folder" in line


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--batchsize=3", "--batch_size"),
        ("--image_szie=3", "--image_size"),
        ("--direct_num_worker=3", "--direct_num_workers"),
        ("--over_write", "--overwrite"),
    ],
)
def test_a_misspelt_flag(tmp_path, capsys, records_file, flag, meant):
    line = refusal(capsys, f"--input={records_file}", flag, output=tmp_path / "out")
    assert flag.split("=")[0] in line
    assert f"did you mean {meant}?" in line


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ("--direct_num_workers=two",),
            "argument --direct_num_workers: invalid int value: 'two'; see --help",
        ),
        (("--direct_running_mode=mult",), "argument --direct_running_mode: invalid choice: 'mult'"),
        (("--num_workers",), "argument --num_workers: expected one argument; see --help"),
        (("--runner=FlinkRuner",), "--runner=FlinkRuner: no such runner; did you mean FlinkRunner?"),
        (("--runner", "kubernetes"), "--runner=kubernetes: no such runner; Beam has DataflowRunner, "),
        (("b #1.jpg",), "'b #1.jpg' is not a flag: each flag takes one value, so quote globs"),
    ],
)
def test_values_that_beam_does_not_take(tmp_path, capsys, records_file, flags, reason):
    line = refusal(capsys, f"--input={records_file}", *flags, output=tmp_path / "out")
    assert line.startswith(reason)
    assert line.count("\n") == 1


@pytest.mark.parametrize("flag", ["--decode_threads=4", "--decode_threads"])
def test_a_flag_that_has_another_name_now(tmp_path, capsys, records_file, flag):
    line = refusal(capsys, f"--input={records_file}", flag, output=tmp_path / "out")
    assert "--decode_threads is now called --decode_processes: images are decoded in processes" in line


@pytest.mark.parametrize(
    "flag", ["--batch_size=0", "--max_failure_rate=2", "--precision=int8", "--max_bytes=5cm"]
)
def test_a_value_out_of_range(tmp_path, capsys, records_file, flag):
    assert flag.split("=")[0] in refusal(capsys, f"--input={records_file}", flag, output=tmp_path / "out")


@pytest.mark.parametrize("order", ["once", "twice"])
def test_flags_that_take_a_list_add_up(order):
    given = {
        "pass_through": ["a,b:int64", "c"],
        "outputs": ["logits", "embedding"],
        "uri_schemes": ["https", "gs,s3"],
        "allow_private_networks": ["10.0.0.0/8", "127.0.0.0/8"],
    }
    flags = [
        f"--{name}={text}"
        for name, texts in given.items()
        for text in (texts if order == "twice" else [",".join(texts)])
    ]
    config, _ = options.parse(["--input=a.csv", "--output=out", "--model=bit/m-r50x1", *flags])
    assert (config.read.pass_through, config.read.kinds) == (("a", "b", "c"), (("b", "int64"),))
    assert config.model.outputs == ("embedding", "logits")
    assert config.read.fetch.uri_schemes == ("https", "gs", "s3")
    assert config.read.fetch.allow_private_networks == ("10.0.0.0/8", "127.0.0.0/8")
    defaults, _ = options.parse(["--input=a.csv", "--output=out", "--model=bit/m-r50x1"])
    assert (defaults.read.pass_through, defaults.model.outputs) == ((), ("embedding",))
    emptied, _ = options.parse(["--input=a.csv", "--output=out", "--model=bit/m-r50x1", "--pass_through="])
    assert emptied.read.pass_through == ()


def test_missing_flags(capsys):
    from pipeline.main import main

    assert main([]) == 2
    assert "missing --input and --output and --model" in capsys.readouterr().err


def test_a_reserved_name_cannot_be_passed_through(tmp_path, capsys, records_file):
    line = refusal(capsys, f"--input={records_file}", "--pass_through=embedding", output=tmp_path / "out")
    assert "embedding" in line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bit/m-r101x33", "did you mean 'bit/m-r101x3'?"),
        ("/nowhere/BiT-M-R101x3.npz", "/nowhere/BiT-M-R101x3.npz"),
        ("gs-typo", "no model 'gs-typo'"),
    ],
)
def test_a_model_that_is_not_there(tmp_path, capsys, records_file, model, message):
    assert message in refusal(capsys, f"--input={records_file}", f"--model={model}", output=tmp_path / "out")


def test_unreachable_weights_are_an_error_with_a_remedy(tmp_path, capsys, records_file, monkeypatch):
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
    model = "--model=http://127.0.0.1:9/BiT-M-R50x1.npz"  # nothing listens there
    line = refusal(capsys, f"--input={records_file}", model, output=tmp_path / "out")
    assert "could not be fetched" in line
    assert "untrained/" in line
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_a_folder_without_a_model(tmp_path, capsys, records_file):
    (tmp_path / "empty").mkdir()
    line = refusal(capsys, f"--input={records_file}", f"--model={tmp_path}/empty", output=tmp_path / "out")
    assert "saved_model.pb" in line


def saved_model(folder, function):
    import tensorflow as tf

    module = tf.Module()
    module.f = function
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
    return folder


def test_a_model_without_a_usable_signature(tmp_path, capsys, records_file):
    import tensorflow as tf

    signature = tf.function(lambda text: {"length": tf.strings.length(text)})
    folder = saved_model(
        tmp_path / "m", signature.get_concrete_function(tf.TensorSpec([None], tf.string, "text"))
    )
    line = refusal(capsys, f"--input={records_file}", f"--model={folder}", output=tmp_path / "out")
    assert "serving_default" in line


def test_an_image_size_that_the_model_cannot_take(tmp_path, capsys, records_file):
    import tensorflow as tf

    signature = tf.function(lambda images: {"features": tf.reduce_mean(images, (1, 2))})
    spec = tf.TensorSpec([None, 100, 100, 3], tf.float32, "images")
    folder = saved_model(tmp_path / "m", signature.get_concrete_function(spec))
    request = (f"--input={records_file}", f"--model={folder}", "--outputs_map=embedding=features")
    line = refusal(capsys, *request, output=tmp_path / "out")
    assert "100" in line
    assert "32" in line
    helpers.job(*request, "--image_size=100", output=tmp_path / "out")
    (record,) = helpers.read_all(tmp_path / "out")
    assert record["embedding"].shape == (3,)


def test_the_report_file_holds_a_refusal(tmp_path, capsys):
    report = tmp_path / "report.json"
    refusal(capsys, f"--input={tmp_path}/none", f"--report_file={report}", output=tmp_path / "out")
    summary = json.loads(report.read_text())
    assert (summary["status"], summary["exit_code"]) == ("refused", 2)
    assert "no file matches" in summary["error"]


def test_a_report_file_that_cannot_be_written_is_refused_before_the_start(tmp_path, capsys, records_file):
    (tmp_path / "file").write_text("in the way")
    report = f"--report_file={tmp_path}/file/report.json"
    line = refusal(capsys, f"--input={records_file}", report, output=tmp_path / "out")
    assert line.startswith(f"{report} cannot be written: ")
    assert line.endswith("(EEXIST); a part of that path is a file: name another folder\n")
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["pipe", "folder", "/dev/stdout"])
def test_a_report_does_not_take_the_place_of_what_is_no_file(tmp_path, capsys, records_file, kind):
    path = tmp_path / kind  # which is /dev/stdout for that
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    error = refusal(capsys, f"--input={records_file}", f"--report_file={path}", output=tmp_path / "out")
    assert f"--report_file={path} cannot be written" in error
    assert path.is_symlink() or not path.is_file()
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "an empty one").mkdir()
    for name in ("an empty one", "an empty one/"):
        line = refusal(capsys, f"--input={tmp_path}/{name}", output=tmp_path / "out")
        assert line == f"--input={tmp_path}/{name}: an empty folder\n"


def test_an_empty_shard_is_fine(tmp_path):
    helpers.write_tfrecord(tmp_path / "in-0.tfrecord", [])
    helpers.job(f"--input={tmp_path}/in-*.tfrecord", output=tmp_path / "out")
    assert (tmp_path / "out" / "features-00000-of-00001.tfrecord").read_bytes() == b""
    assert helpers.manifest(tmp_path / "out")["inputs"] == 0


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("a-{00..02}.tar", ["a-00.tar", "a-01.tar", "a-02.tar"]),
        ("b,a-{8..11}.tar,c*", ["b", "a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar", "c*"]),
        ("{0..1}/{5..6},{1..1}", ["0/5", "0/6", "1/5", "1/6", "1"]),
        ("a{b}c,{x..y},{1,2}", ["a{b}c", "{x..y}", "{1", "2}"]),
    ],
)
def test_number_ranges_are_expanded(text, paths):
    config, _ = options.parse([f"--input={text}", "--output=out", *helpers.TINY])
    assert list(config.inputs) == paths


@pytest.mark.parametrize("text", ["{5..3}", "a{0..9999999}"])
def test_a_bad_range_is_refused(tmp_path, capsys, text):
    assert "is not a range" in refusal(capsys, f"--input={text}", output=tmp_path / "out")


def test_schemes_are_those_of_the_stores_and_of_beams_file_systems(tmp_path, capsys):
    request = [f"--input={tmp_path}/a.txt", f"--output={tmp_path}/out", *helpers.TINY]
    config, _ = options.parse([*request, "--uri_schemes=hdfs,azfs,gs,https"])
    assert config.read.fetch.uri_schemes == ("hdfs", "azfs", "gs", "https")
    line = refusal(capsys, *request, "--uri_schemes=gs,ftp", output=tmp_path / "out")
    assert line.startswith(
        "--uri_schemes=gs,ftp: unknown scheme 'ftp'; choose from file, gs, s3, http, https, data, hdfs"
    )
