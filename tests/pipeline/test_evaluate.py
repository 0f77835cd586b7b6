"""python -m pipeline.evaluate: accuracies of what a job wrote, with nothing left out unsaid."""

import hashlib
import json

import numpy as np
import pytest

from pipeline import evaluate
from tests import outputs

NAMES = ("cat", "dog", "7")
# Logits and label of each image; the classes by their logits: 0, 1, 2, 0, 1.
LOGITS = [(9, 1, 0), (0, 5, 1), (0, 1, 3), (4, 3, 2), (1, 2, 1)]
LABELS = [0, 0, 2, 0, 1]  # right: images 0, 2, 3, 4


def records(labels, logits=LOGITS, source="logits", k=3):
    out = []
    for number, (label, values) in enumerate(zip(labels, logits, strict=True)):
        record = {"key": f"{number}"} | ({} if label is None else {"label": label})
        if source == "logits":
            record["logits"] = [float(value) for value in values]
        else:
            record["top_k/class"] = np.argsort(-np.array(values), kind="stable")[:k].tolist()
        out.append(record)
    return out


def named(folder, names=NAMES):
    content = "".join(f"{name}\n" for name in names).encode()
    folder.mkdir()
    (folder / "class_names.txt").write_bytes(content)
    return {"class_names": f"sha256:{hashlib.sha256(content).hexdigest()}"}


def run(capsys, *flags, expect=0):
    code = evaluate.main([*map(str, flags), "--json"])
    captured = capsys.readouterr()
    assert code == expect, captured.err
    return (json.loads(captured.out) if captured.out else None), captured.err


@pytest.mark.parametrize("source", ["logits", "top_k"])
@pytest.mark.parametrize(
    ("labels", "has_names"),
    [
        (LABELS, False),
        (LABELS, True),
        ([str(label).encode() for label in LABELS], False),  # as a .cls member of a tar
        (["cat", "cat", "7", "cat", "dog"], True),  # a name comes before a number
        ([1.0 * label for label in LABELS], False),
    ],
)
def test_labels_of_every_kind_give_the_same_accuracies(source, labels, has_names, tmp_path, capsys):
    folder = tmp_path / "out"
    more = named(folder) if has_names else {}
    size = {"logits": 3} if source == "logits" else {"top_k/class": 3}
    rows = records(labels, source=source)
    outputs.write(folder, [rows[:2], [], rows[2:]], size, failures=3, **more)
    result, text = run(capsys, folder, "--label=label")
    assert (result["inputs"], result["evaluated"], result["failed"]) == (8, 5, {"bad_jpeg": 3})
    assert result["top_1"] == 4 / 5
    assert result["top_1_if_failed_are_wrong"] == 4 / 8
    assert result["mean_per_class"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    # The classes of a head are known by its logits or their names; else top_k of three may not be all.
    assert result["top_5"] == (1.0 if source == "logits" or has_names else None)
    assert [(c["class"], c["images"], c["top_1"]) for c in result["classes"]] == [
        (0, 3, 2 / 3),
        (1, 1, 1.0),
        (2, 1, 1.0),
    ]
    (wrong,) = result["classes"][0]["most_often_taken_for"]
    assert (wrong["class"], wrong["images"], wrong["name"]) == (1, 1, "dog" if has_names else "")
    assert f"{folder}: 5 of 8 images evaluated" in text
    assert "failed: 3 (3 bad_jpeg)" in text
    assert "top-1  80.0% (50.0% if failed images count as wrong)" in text


def test_top_1_and_top_5_of_many_classes(tmp_path, capsys):
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 12)).astype(np.float32)
    labels = random.integers(0, 12, 200)
    outputs.write(tmp_path / "out", [records(labels.tolist(), logits)], {"logits": 12})
    result, _ = run(capsys, tmp_path / "out", "--label=label")
    better = (logits > logits[np.arange(200), labels][:, None]).sum(1)
    assert result["top_1"] == (better == 0).mean()
    assert result["top_5"] == (better < 5).mean()
    # The same from labels that count from 1.
    outputs.write(tmp_path / "one", [records((labels + 1).tolist(), logits)], {"logits": 12})
    again, _ = run(capsys, tmp_path / "one", "--label=label", "--label_offset=1")
    assert again == result


def test_what_has_no_label_is_counted_by_reason(tmp_path, capsys):
    labels = [0, None, "", [0, 1], 0.5, 3, -1, "bird", 1]
    rows = records(labels, [*LOGITS, *LOGITS[:4]])
    outputs.write(tmp_path / "out", [rows], {"logits": 3})
    result, text = run(capsys, tmp_path / "out", "--label=label")
    assert result["evaluated"] == 2
    assert result["not_evaluated"] == {
        "a label that is no class": 3,
        "a label that is no whole number": 1,
        "no label": 2,
        "several labels": 1,
    }
    assert result["labels_of_no_class"] == {"3": 1, "-1": 1, "bird": 1}
    assert result["evaluated"] + sum(result["not_evaluated"].values()) == result["inputs"] == 9
    assert "not evaluated: 7" in text


def test_a_name_that_two_classes_have_is_no_label(tmp_path, capsys):
    folder = tmp_path / "out"
    more = named(folder, ("crane", "dog", "crane"))
    outputs.write(folder, [records(["crane", "dog", 2, 0, 1])], {"logits": 3}, **more)
    result, _ = run(capsys, folder, "--label=label")
    assert result["labels_of_no_class"] == {"crane": 1}
    assert result["evaluated"] == 4


def test_synsets_and_names_of_an_official_head_are_labels(tmp_path, capsys):
    model = {"name": "bit/m-r50x1/ilsvrc2012_classification", "weights": "x"}
    logits = np.eye(1000, dtype=np.float32)[[0, 0, 1]]
    rows = records(["n01440764", "tench, Tinca tinca", "n01440764"], logits)
    outputs.write(tmp_path / "out", [rows], {"logits": 1000}, model=model)
    result, _ = run(capsys, tmp_path / "out", "--label=label")
    assert (result["evaluated"], result["top_1"]) == (3, 2 / 3)
    assert result["classes"][0]["name"] == "tench, Tinca tinca"


@pytest.mark.parametrize(
    ("change", "flags", "code", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), [], 2, "no output of a finished job"),
        (lambda folder: None, ["--label=other"], 2, "it passed through label"),
        (
            lambda folder: (folder / "features-00000-of-00001.tfrecord").write_bytes(b"x" * 99),
            [],
            1,
            "verify",
        ),
        (lambda folder: (folder / "features-00000-of-00001.tfrecord").write_bytes(b""), [], 1, "0 records"),
        (lambda folder: (folder / "class_names.txt").write_text("a\nb\nc\n"), [], 1, "digest"),
        (lambda folder: (folder / "class_names.txt").unlink(), [], 1, "digest"),
    ],
)
def test_an_output_that_cannot_be_evaluated_is_refused(change, flags, code, message, tmp_path, capsys):
    folder = tmp_path / "out"
    outputs.write(folder, [records(LABELS)], {"logits": 3}, **named(folder))
    change(folder)
    result, text = run(capsys, folder, "--label=label", *flags, expect=code)
    assert result is None
    assert text.startswith("error: ")
    assert message in text


def test_outputs_without_classes_or_labels_are_refused(tmp_path, capsys):
    rows = [{"key": "0", "label": 0, "embedding": [1.0]}]
    outputs.write(tmp_path / "a", [rows], {"embedding": 1})
    assert "--outputs=logits" in run(capsys, tmp_path / "a", "--label=label", expect=2)[1]
    outputs.write(tmp_path / "b", [records(["bird"] * 5)], {"logits": 3})
    assert "such as 'bird', which is no class" in run(capsys, tmp_path / "b", "--label=label", expect=2)[1]
