"""`python -m pipeline.finetune` from inputs of every kind to a model that the job runs."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from apache_beam.options.pipeline_options import S3Options

from bit import tuned
from bit.checkpoint import open_checkpoint
from bit.models import ARCHITECTURES
from bit.weights import Untrained
from pipeline import reach
from pipeline.finetune import data
from pipeline.finetune import folder as folders
from pipeline.finetune import request as requests
from pipeline.flags import RequestError
from tests import helpers, places
from tests.finetune.pictures import NAMES, TINY, finetune, png, records
from tests.finetune.pictures import folders as write_folders


def metrics(output):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def test_folders_of_pictures_become_a_model_that_the_job_runs(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what is held out depends on the keys, which are paths
    photos = write_folders(Path("photos"), 12)
    (photos / "red" / "bad.png").write_bytes(png(2, 99)[:300])
    output = tmp_path / "out"
    finetune(f"--input={photos}", *TINY, "--steps=20", "--validation_share=0.3", output=output)
    said = capfd.readouterr()
    assert "step 20/20, loss" in said.err
    assert said.out == ""
    report = json.loads((output / "report.json").read_text())
    assert report["classes"] == 3
    assert report["examples"] + report["evaluated"] == 37  # the damaged one is among those to train on
    assert report["failed"] == 1
    assert report["top1"] >= 0.9
    assert report["image_size"] == 32
    assert sum(row["count"] for row in report["per_class"]) == report["evaluated"]
    (failed,) = map(json.loads, (output / "failures.jsonl").read_text().splitlines())
    assert failed["key"].endswith("red/bad.png")
    assert failed["stage"] == "decode"
    assert (output / "classes.txt").read_text().split() == list(NAMES)
    assert tuned.read_preprocessing(str(output / "model"), "saved_model") == (32, "ignore")
    page = (output / "report.html").read_text()
    assert "<svg" in page
    assert "Confusion" in page
    assert not (output / "checkpoints").exists()
    steps = [line["step"] for line in metrics(output) if "learning_rate" in line]
    assert steps == list(range(20))
    (events,) = (output / "tensorboard").iterdir()
    assert tags_of(events) >= {"loss", "accuracy", "learning_rate", "evaluation/top1"}
    # The job's own answer for the same pictures.
    features = tmp_path / "features"
    command = (
        f"--input={photos}",
        f"--model={output / 'model'}",
        "--outputs=embedding,logits,top_k",
        "--top_k=1",
    )
    assert job(*command, f"--output={features}") == 0
    answers = {r["key"][0].decode(): r["top_k/name"][0].decode() for r in helpers.read_all(features)}
    assert len(answers) == 36
    assert np.mean([key.split("/")[-2] == name for key, name in answers.items()]) >= 0.9
    # A finished run is left alone, and another request refused.
    before = helpers.contents(output)
    finetune(f"--input={photos}", *TINY, "--steps=20", "--validation_share=0.3", output=output)
    assert helpers.contents(output) == before
    finetune(
        f"--input={photos}",
        *TINY,
        "--steps=21",
        "--seed=4",
        "--validation_share=0.3",
        output=output,
        expect=2,
    )
    said = capfd.readouterr().err
    assert "another request: seed was 0, now 4; steps was 20, now 21" in said
    write_folders(tmp_path / "more", 3)
    (photos / "red" / "another.png").write_bytes(png(2, 50))
    finetune(f"--input={photos}", *TINY, "--steps=20", "--validation_share=0.3", output=output, expect=2)
    assert "files of --input was" in capfd.readouterr().err
    assert helpers.contents(output)["weights.npz"] == before["weights.npz"]


def job(*flags):
    from pipeline.main import main

    return main(["--runner=DirectRunner", "--batch_size=8", *flags])


def tags_of(path):
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    events = [Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert events[0].file_version == "brain.Event:2"
    return {value.tag for event in events for value in event.summary.value}


def inputs(kind, folder):
    """The flags of an input of each kind with the same twelve labelled pictures."""
    rows = [(png(label, index), label) for index in range(4) for label in range(3)]
    folder.mkdir()
    if kind == "tfrecord":
        records(folder / "a.tfrecord")
        return [f"--input={folder}/a.tfrecord", "--label_feature=image/class/label"]
    if kind == "text":
        records(folder / "a.tfrecord")
        return [f"--input={folder}/a.tfrecord", "--label_feature=text"]
    if kind == "webdataset":
        with tarfile.open(folder / "a.tar", "w") as tar:
            for number, (data, label) in enumerate(rows):
                for suffix, content in (("png", data), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return [f"--input={folder}/a.tar", "--label_feature=cls"]
    if kind == "parquet":
        table = pa.table({"image": [data for data, _ in rows], "label": [NAMES[label] for _, label in rows]})
        pyarrow.parquet.write_table(table, folder / "a.parquet")
        return [f"--input={folder}/a.parquet", "--label_feature=label", "--image_feature=image"]
    for number, (data, _) in enumerate(rows):
        (folder / f"{number}.png").write_bytes(data)
    listed = [
        {"uri": str(folder / f"{number}.png"), "label": label} for number, (_, label) in enumerate(rows)
    ]
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
        return [f"--input={folder}/a.jsonl", "--label_feature=label"]
    with open(folder / "a.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, ("uri", "label"))
        writer.writeheader()
        writer.writerows(listed)
    return [f"--input={folder}/a.csv", "--label_feature=label"]


def examples_in(output):
    """What the pass over the input has kept: the examples of each part, and what is known of all."""
    with np.load(output / "examples.npz") as stored:
        request = json.loads(str(stored["about"]))["request"]
    return folders.load_examples(output / "examples.npz", request)


@pytest.mark.parametrize("kind", ["tfrecord", "text", "webdataset", "parquet", "csv", "jsonl"])
def test_every_kind_of_input_gives_its_labels(kind, tmp_path):
    """And with the cache the same as without."""
    flags = [*inputs(kind, tmp_path / "in"), *TINY, "--steps=3", "--validation_share=0"]
    losses = []
    for name, more in (("out", ()), ("cached", ("--cache",))):
        output = tmp_path / name
        finetune(*flags, *more, output=output)
        parts, about = examples_in(output)
        names = list(NAMES) if kind in ("text", "parquet") else ["0", "1", "2"]
        assert about["classes"] == names
        assert list(parts["training"].classes) == [0, 1, 2] * 4
        assert (output / "failures.jsonl").read_text() == ""
        losses.append([line["loss"] for line in metrics(output)])
        if kind != "csv":
            break
    assert losses[0] == losses[-1]
    assert losses[0][0] == pytest.approx(np.log(3), rel=1e-9)


def test_images_of_a_tar_that_are_not_used_are_announced(tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(3):
            contents = {"left.png": png(number, 0), "right.png": png(number, 1), "cls": str(number).encode()}
            for suffix, content in contents.items():
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    flags = (f"--input={tmp_path}/a.tar", "--label_feature=cls", *TINY, "--steps=1", "--validation_share=0")
    finetune(*flags, output=tmp_path / "out")
    said = (
        "sample '000' holds several images, of which left.png is used, as it comes first, and right.png not"
    )
    assert said in capsys.readouterr().err
    finetune(*flags, "--image_feature=right.png", output=tmp_path / "right")
    assert "several images" not in capsys.readouterr().err


def test_killed_it_goes_on_to_the_same_bytes(tmp_path):
    records(tmp_path / "in" / "a.tfrecord", 7)
    records(tmp_path / "in" / "b.tfrecord", 3)
    damaged = bytearray((tmp_path / "in" / "b.tfrecord").read_bytes())
    damaged[200] ^= 1
    (tmp_path / "in" / "b.tfrecord").write_bytes(damaged)
    broken = helpers.example({"image/encoded": png(1, 7)[:200], "text": NAMES[1]})
    helpers.write_tfrecord(tmp_path / "in" / "c.tfrecord", [broken])
    # Micro-batches of half an update, and a buffer that holds a third of the examples, in shards that are read side by side.
    flags = (f"--input={tmp_path}/in", "--label_feature=text", *TINY, "--micro_batch=4", "--shuffle_buffer=64KiB", "--steps=12",
             "--mixup=0.2", "--deterministic", "--evaluate_every=5", "--validation_share=0.2")  # fmt: skip
    process(*flags, f"--output={tmp_path}/undisturbed")
    parts, about = examples_in(tmp_path / "undisturbed")
    assert about["window"] < len(parts["training"]) / 2
    updates = -(-len(parts["training"]) // 8)
    assert 1 < updates < 4  # so that what is read is begun anew before and after it is killed
    output = tmp_path / "disturbed"
    again = (*flags, f"--output={output}", "--checkpoint_minutes=0.00001")
    process(*again, at_step=4, number=signal.SIGKILL, expect=-signal.SIGKILL)
    assert list((output / "checkpoints").glob("step-*.npz"))
    said = process(*again)
    assert "going on from the checkpoint before step" in said
    undisturbed, disturbed = (helpers.contents(tmp_path / name) for name in ("undisturbed", "disturbed"))
    same = ["weights.npz", "classes.txt", "failures.jsonl", "report.json", "model/assets.extra/self_test.npz",
            "model/variables/variables.data-00000-of-00001"]  # fmt: skip
    for name in same:
        assert disturbed[name] == undisturbed[name], name
    assert metrics(output) == metrics(tmp_path / "undisturbed")
    assert b"damaged_record" in disturbed["failures.jsonl"]
    assert json.loads(disturbed["report.json"])["found"] == 7 * 3 + 3 * 3 + 1


def process(*flags, at_step=None, number=None, expect=0):
    """Runs the command with one thread, and signals it once the step is in its metrics; returns what it said."""
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline.finetune", *flags]
    output = next(flag for flag in flags if flag.startswith("--output=")).removeprefix("--output=")
    with subprocess.Popen(
        command, cwd=helpers.REPO, env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        path = f"{output}/metrics.jsonl"
        while at_step is not None and running.poll() is None:
            if os.path.exists(path) and f'"step": {at_step},' in Path(path).read_text():
                running.send_signal(number)
                break
            time.sleep(0.01)
        said = running.communicate(timeout=600)[1]
    assert running.returncode == expect, said
    return said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--model=untrained/tiny", "--output=o"), "missing --input"),
        (("--input=x", "--model=no/such", "--output=o"), "no model"),
        (("--input=x", "--model=https://host/module.tar.gz", "--output=o"), "is a SavedModel"),
        (("--input=x", "--model=untrained/tiny", "--output=gs://b/o"), "not a local folder"),
        (
            ("--input=x", "--model=untrained/tiny", "--output=o", "--validation=y", "--validation_share=0.5"),
            "exclude each other",
        ),
        (("--input=x", "--model=untrained/tiny", "--output=o", "--decays=1,x"), "x"),
        (("--input=x", "--model=untrained/tiny", "--output=o", "--base_rate=0"), "not a learning rate"),
        (
            ("--input=x", "--model=untrained/tiny", "--output=o", "--crop=64", "--resize=32"),
            "more than --resize",
        ),
    ],
)
def test_wrong_requests_are_refused(flags, says):
    with pytest.raises(RequestError, match=says):
        requests.parse(flags)


REQUIRED = ("--input=x", "--model=untrained/tiny", "--output=o")


def parsed(*flags):
    return requests.parse(flags)[0]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--warm_up=-5", "--warm_up=-5 is not a number of updates from 0 to 20000"),
        ("--warm_up=51 --steps=50", "--warm_up=51 is not a number of updates from 0 to 50"),
        (
            "--warm_up=40 --decays=30,35 --steps=50",
            "decays after 30 already: set both --warm_up and --decays",
        ),
        ("--decays=30,20", "--decays=30,20: these numbers of updates do not ascend"),
        ("--decays=20,20", "do not ascend"),
        ("--decays=-3,20", "--decays=-3,20: not numbers of updates from 1 to 19999"),
        ("--decays=0", "from 1 to 19999"),
        ("--decays=50 --steps=50", "--decays=50: not numbers of updates from 1 to 49"),
        ("--momentum=1", "--momentum=1.0 is not a share from 0 to below 1"),
        ("--momentum=-0.1", "--momentum: -0.1 is not between 0 and 1"),
        ("--momentum=nan", "--momentum: nan is not between 0 and 1"),
        ("--checkpoint_minutes=-1", "--checkpoint_minutes=-1.0 is not a time of 0 minutes or more"),
        ("--checkpoint_minutes=nan", "--checkpoint_minutes=nan is not"),
        ("--checkpoint_minutes=inf", "--checkpoint_minutes=inf is not"),
        ("--base_rate=nan", "--base_rate=nan is not a learning rate above 0 and below 100"),
        ("--base_rate=100", "--base_rate=100 is not"),
        ("--base_rate=60 --scale_rate --batch_size=1024", "--base_rate=60, by --scale_rate 120, is not"),
        ("--seed=-1", "--seed=-1 is not a number from 0"),
        ("--seed=9223372036854775808", "--seed=9223372036854775808 is not"),
        ("--mixup=nan", "--mixup: nan is not between 0 and 1"),
        ("--mixup=-0.1", "--mixup: -0.1 is not between 0 and 1"),
        ("--validation_share=1.1", "--validation_share: 1.1 is not between 0 and 1"),
        ("--max_failure_rate=nan", "--max_failure_rate: nan is not between 0 and 1"),
        ("--steps=0", "--steps: 0 is not a positive number"),
        ("--batch_size=-1", "--batch_size: -1 is not a positive number"),
        ("--micro_batch=0", "--micro_batch: 0 is not a positive number"),
        ("--evaluate_every=-1", "--evaluate_every: -1 is not a positive number"),
        ("--shuffle_buffer=0", "--shuffle_buffer: '0' is not a size"),
        ("--resize=9000", "--resize: 9000 is more than 8192 pixels"),
        ("--crop=0", "--crop: 0 is not a positive number"),
        ("--decode_timeout=nan", "--decode_timeout: nan is not a time"),
        ("--runner=FlinkRunner", "--runner=FlinkRunner: training runs in this process"),
        ("--base_rat=1", "unknown flag --base_rat; did you mean --base_rate"),
    ],
)
def test_values_out_of_range_are_refused_by_flag_and_range(flags, says):
    with pytest.raises(RequestError, match=re.escape(says)):
        requests.parse([*REQUIRED, *flags.split()])


@pytest.mark.parametrize(
    ("flags", "examples", "says"),
    [
        ("--warm_up=600", 100, "--warm_up=600 is not a number of updates from 0 to 500"),
        ("--decays=600", 100, "--decays=600: not numbers of updates from 1 to 499"),
        ("--warm_up=300", 100, "the rate rises for 300 updates, but decays after 200 already"),
        ("--decays=50", 100, "the rate rises for 100 updates, but decays after 50 already"),
    ],
)
def test_a_schedule_that_only_the_number_of_examples_shows_to_be_wrong_is_refused(flags, examples, says):
    request = parsed(*REQUIRED, flags)
    with pytest.raises(RequestError, match=re.escape(says)):
        request.recipe(examples, 100.0)


@pytest.mark.parametrize("area", [100.0, 1e6])
@pytest.mark.parametrize("examples", [100, 30_000, 1_000_000])
def test_a_flag_set_to_what_the_rule_says_changes_nothing(area, examples):
    rule = parsed(*REQUIRED).recipe(examples, area)
    sides, schedule = rule.resolution, rule.schedule
    for flag in (
        f"--crop={sides.crop}",
        f"--resize={sides.resize}",
        f"--steps={schedule.end}",
        f"--warm_up={schedule.warm_up}",
        f"--decays={','.join(map(str, schedule.decays))}",
        f"--mixup={rule.mixup_alpha}",
    ):
        assert parsed(*REQUIRED, flag).recipe(examples, area) == rule, flag


@pytest.mark.parametrize(
    ("flags", "area", "resize", "crop"),
    [
        ("--crop=64", 100.0, 80, 64),
        ("--crop=64", 1e6, 68, 64),
        ("--crop=480", 100.0, 600, 480),
        ("--crop=128", 1e6, 137, 128),
        ("--resize=200", 100.0, 200, 128),
        ("--resize=100", 100.0, 100, 100),
        ("--crop=64 --resize=64", 100.0, 64, 64),
    ],
)
def test_a_crop_keeps_the_ratio_of_its_class(flags, area, resize, crop):
    sides = parsed(*REQUIRED, *flags.split()).recipe(100, area).resolution
    assert (sides.resize, sides.crop) == (resize, crop)


def test_the_options_of_stores_are_those_of_the_job(tmp_path, capfd, monkeypatch):
    """As the job: known before anything is read, and no part of the request, as some are secrets."""
    seen = []

    def inputs(request):
        raise RequestError("enough")

    monkeypatch.setattr(reach, "enter", lambda options, *_: seen.append(options))
    monkeypatch.setattr(data, "inputs", inputs)
    flags = ("--s3_endpoint_url=http://store:9000", "--s3_secret_access_key=hidden", "--s3_region_name=here")
    finetune("--input=s3://b/x", *TINY, *flags, output=tmp_path / "out", expect=2)
    assert "error: enough" in capfd.readouterr().err
    values = seen[0].view_as(S3Options)
    assert (values.s3_endpoint_url, values.s3_region_name) == ("http://store:9000", "here")
    identities = [folders.identity(parsed(*REQUIRED, *more), "w", {}) for more in ((), flags)]
    assert identities[0] == identities[1]


def test_the_rule_holds_unless_a_flag_says_otherwise():
    rule = parsed(*REQUIRED).recipe(30_000, 100.0)
    assert rule.schedule.end == 10_000
    assert (rule.resolution.resize, rule.resolution.crop, rule.mixup_alpha) == (160, 128, 0.1)
    assert parsed(*REQUIRED).base_rate == 0.003
    changed = parsed(
        *REQUIRED, "--steps=50", "--decays=30", "--mixup=0", "--crop=64", "--batch_size=128", "--scale_rate"
    )
    rule = changed.recipe(30_000, 1e6)
    assert (rule.schedule.end, rule.schedule.decays, rule.mixup_alpha) == (50, (30,), 0)
    assert (rule.resolution.resize, rule.resolution.crop) == (68, 64)
    assert changed.base_rate == 0.003 / 4
    assert parsed(*REQUIRED, "--resize=100").recipe(10, 1e6).resolution.crop == 100


def test_inputs_without_the_label_and_other_folders_are_refused(tmp_path, capfd):
    records(tmp_path / "a.tfrecord")
    photos = write_folders(tmp_path / "photos", 1)
    for flags, says in (
        ((f"--input={tmp_path}/a.tfrecord",), "--label_feature is missing"),
        ((f"--input={tmp_path}/a.tfrecord", "--label_feature=lable"), "no feature 'lable'"),
        ((f"--input={photos}", "--label_feature=x"), "image files have no features"),
    ):
        finetune(*flags, *TINY, output=tmp_path / "out", expect=2)
        assert says in capfd.readouterr().err
    finetune(
        f"--input={tmp_path}/a.tfrecord", "--label_feature=text", *TINY, output=tmp_path / "photos", expect=2
    )
    assert "and no run of this command" in capfd.readouterr().err


def test_a_stray_picture_is_no_class_and_one_class_is_refused(tmp_path, capfd):
    photos = write_folders(tmp_path / "photos", 2)
    (photos / "stray.png").write_bytes(png(0, 9))
    flags = (*TINY, "--steps=1", "--validation_share=0")
    finetune(f"--input={photos}", *flags, output=tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text().split() == list(NAMES)
    (line,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (line["key"], line["stage"], line["code"]) == (str(photos / "stray.png"), "label", "no_label")
    said = capfd.readouterr().err
    assert "6 examples of 3 classes to train on" in said
    assert "1 update of 8 pictures" in said
    assert "; 1 example failed" in said
    for number, more in enumerate(("red", "red/*.png")):
        finetune(f"--input={photos}/{more}", *flags, output=tmp_path / f"flat{number}", expect=2)
        assert "all examples are of one class, 'red': two or more are needed" in capfd.readouterr().err
        assert not (tmp_path / f"flat{number}").exists()
    # Folders that are named one by one are classes.
    finetune(f"--input={photos}/red,{photos}/green", *flags, output=tmp_path / "two")
    assert (tmp_path / "two" / "classes.txt").read_text().split() == ["green", "red"]
    # By the hash of these keys two classes are held out.
    finetune(f"--input={photos}", *TINY, "--validation_share=0.999", output=tmp_path / "held", expect=2)
    assert "left to train on" in capfd.readouterr().err


def test_examples_that_cannot_be_used_are_counted_and_too_many_end_it(tmp_path, capfd):
    examples = [helpers.example({"image/encoded": png(0, 0), "image/class/label": n % 2}) for n in range(3)]
    examples += [helpers.example({"image/encoded": png(0, 0)})] * 5
    path = helpers.write_tfrecord(tmp_path / "a.tfrecord", examples)
    flags = (
        f"--input={path}",
        "--label_feature=image/class/label",
        *TINY,
        "--steps=2",
        "--validation_share=0",
    )
    finetune(*flags, output=tmp_path / "out", expect=3)
    assert "5 of 8 examples cannot be used" in capfd.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [(line["position"], line["stage"], line["code"]) for line in lines] == [
        (n, "label", "no_label") for n in range(3, 8)
    ]
    finetune(*flags, "--max_failure_rate=0.9", output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["failed"] == 5


def test_another_input_validates_and_its_unknown_classes_are_failures(tmp_path):
    records(tmp_path / "a.tfrecord")
    strange = helpers.example({"image/encoded": png(0, 0), "text": "purple"})
    other = [helpers.example({"image/encoded": png(label, 77), "text": NAMES[label]}) for label in range(3)]
    helpers.write_tfrecord(tmp_path / "b.tfrecord", [*other, strange])
    finetune(f"--input={tmp_path}/a.tfrecord", f"--validation={tmp_path}/b.tfrecord", "--label_feature=text", *TINY,
             "--steps=2", output=tmp_path / "out")  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["examples"], report["evaluated"], report["failed"]) == (12, 3, 1)
    (line,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert line["code"] == "unknown_class"
    assert "purple" in line["message"]


def listed(folder):
    """A list of six pictures by names relative to its folder; the labels are numbers, the last one a text."""
    folder.mkdir()
    rows = []
    for number in range(6):
        name = f"{number} #%41.png"
        (folder / name).write_bytes(png(number % 3, number))
        rows.append({"uri": name, "label": number % 3})
    rows[5]["label"] = "2"
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"--input={folder}/a.jsonl"


def test_relative_names_are_found_beside_their_list_and_refused_where_none_exists(tmp_path, capfd):
    folder, output = tmp_path / "in", tmp_path / "out"
    flags = (listed(folder), "--label_feature=label", *TINY, "--steps=2", "--validation_share=0")
    pictures = {path: path.read_bytes() for path in folder.glob("*.png")}
    for path in pictures:
        path.unlink()
    finetune(*flags, output=output, expect=2)
    assert "none of its first 6 relative names exists" in capfd.readouterr().err
    assert not output.exists()
    for path, content in pictures.items():
        path.write_bytes(content)
    finetune(*flags, output=output)
    parts, about = examples_in(output)
    assert about["classes"] == ["0", "1", "2"]  # of a column of texts
    assert list(parts["training"].classes) == [0, 1, 2] * 2
    assert (output / "failures.jsonl").read_text() == ""
    for path in pictures:
        path.unlink()
    finetune(*flags, output=output)
    assert "nothing to do" in capfd.readouterr().err


def test_the_type_of_the_labels_can_be_set(tmp_path):
    requests_of = ["--input=x", "--model=untrained/tiny", "--output=o", "--label_feature=label:int64"]
    assert parsed(*requests_of).label_feature == "label"
    flags = listed(tmp_path / "in")
    (tmp_path / "in" / "a.jsonl").write_text(
        (tmp_path / "in" / "a.jsonl").read_text().replace('"label": 1', '"label": "one"')
    )
    finetune(
        flags,
        "--label_feature=label:int64",
        *TINY,
        "--steps=1",
        "--validation_share=0",
        output=tmp_path / "out",
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [(line["position"], line["code"]) for line in lines] == [(1, "bad_label"), (4, "bad_label")]


def test_folders_of_odd_names_are_classes(tmp_path):
    odd = {b"a%41": 0, b" b": 1, b"\xff": 2, b"\xfe": 0, b"c\nd": 1}
    for name, label in odd.items():
        folder = os.fsencode(tmp_path / "photos") + b"/" + name
        os.makedirs(folder)
        for number, file in enumerate((b"1.png", b"2 .png", b"\xf0.png")):
            with open(folder + b"/" + file, "wb") as stream:
                stream.write(png(label, number))
    output = tmp_path / "out"
    finetune(f"--input={tmp_path}/photos", *TINY, "--steps=1", "--validation_share=0", output=output)
    assert tuned.read_names(str(output / "model"), "saved_model") == (" b", "\\xfe", "\\xff", "a%41")
    assert json.loads((output / "report.json").read_text())["examples"] == 12
    lines = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert [line["code"] for line in lines] == ["bad_label"] * 3


def test_a_checkpoint_with_timms_names_is_where_training_starts(tmp_path):
    """Two updates of the head alone: the other arrays are those of the file."""
    weights = Untrained(ARCHITECTURES["tiny"], 7)
    (tmp_path / "tiny.safetensors").write_bytes(places.safetensors(weights))
    records(tmp_path / "a.tfrecord")
    flags = [flag for flag in TINY if not flag.startswith("--model")]
    finetune(f"--input={tmp_path}/a.tfrecord", "--label_feature=text", f"--model={tmp_path}/tiny.safetensors", *flags,
             "--offline", "--train=head", "--steps=2", output=tmp_path / "out")  # fmt: skip
    tuned_weights = open_checkpoint(str(tmp_path / "out" / "weights.npz"))
    assert tuned_weights.classes == 3
    for name in ("root_block/standardized_conv2d/kernel", "block1/unit01/a/group_norm/gamma"):
        np.testing.assert_array_equal(tuned_weights.array(name), weights.array(name))


def test_weights_that_cannot_be_had_are_refused_before_anything_is_written(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    records(tmp_path / "a.tfrecord")
    (tmp_path / "cut.npz").write_bytes(b"PK")
    for model, says in (
        ("bit/m-r50x1", "--offline asks no other"),
        (tmp_path / "cut.npz", "is not an .npz archive"),
        (tmp_path / "none.npz", "no file"),
    ):
        finetune(f"--input={tmp_path}/a.tfrecord", "--label_feature=text", f"--model={model}", "--offline",
                 output=tmp_path / "out", expect=2)  # fmt: skip
        assert says in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
