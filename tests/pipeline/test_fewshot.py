"""python -m pipeline.fewshot: the closed form against scikit-learn and a plain reference, on real pictures of digits."""

import hashlib
import json

import numpy as np
import pytest
from scipy.stats import t
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from pipeline import fewshot, ridge
from tests import outputs

DIGITS = load_digits()  # 1,797 pictures of 8 x 8
X, Y = DIGITS.data.astype(np.float32), DIGITS.target


def write(folder, rows, label=lambda y: int(y), shards=3, failures=0):
    """The output of a job whose features are the pixels."""
    records = [{"key": f"digit-{n}", "label": label(Y[n]), "embedding": X[n].tolist()} for n in rows]
    return outputs.write(
        folder, [records[k::shards] for k in range(shards)], {"embedding": 64}, failures=failures
    )


def run(capsys, *flags, expect=0):
    code = fewshot.main([*map(str, flags), "--json"])
    captured = capsys.readouterr()
    assert code == expect, captured.err
    return (json.loads(captured.out) if captured.out else None), captured.err


def reference(x, y, x_test, l2):
    """big_vision's formulas as they stand there, without the eigendecomposition: the predicted classes."""
    mean, std = x.mean(0), x.std(0) + 1e-5
    a, b = (np.pad((z - mean) / std, ((0, 0), (0, 1)), constant_values=100.0) for z in (x, x_test))
    targets = 2.0 * np.eye(y.max() + 1)[y] - 1.0
    return (b @ np.linalg.solve(a.T @ a + l2 * np.eye(a.shape[1]), a.T @ targets)).argmax(1)


@pytest.mark.parametrize("count", [10, 40, 64, 65, 66, 500])  # fewer and more examples than features
@pytest.mark.parametrize("l2", [2.0**-10, 1.0, 2.0**10, 2.0**20])
def test_the_closed_form_is_ridge_regression(count, l2):
    x, y, x_test = X[:count].astype(np.float64), Y[:count], X[500:].astype(np.float64)
    solver = ridge.solve(x, y, 10)
    mean, deviation = x.mean(0), x.std(0) + 1e-5
    a, b = (np.pad((z - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0) for z in (x, x_test))
    model = Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(a, 2.0 * np.eye(10)[y] - 1.0)
    kernel, bias = solver.linear(l2)
    np.testing.assert_allclose(x_test @ kernel + bias, model.predict(b), atol=1e-3)
    assert (x.std(0) == 0).any()
    assert not kernel[x.std(0) == 0].any()  # of pixels that do not differ among the examples
    assert (solver.predict(solver.projected(x_test), l2) == reference(x, y, x_test, l2)).mean() > 0.999


def split(share=0.2):
    """Which digits are classified, by the documented hash."""
    digest = [hashlib.sha256(b"test\0" + f"digit-{n}".encode()).digest() for n in range(len(Y))]
    return np.array([int.from_bytes(d[:8], "big") < share * 2**64 for d in digest])


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_accuracies_are_those_of_a_plain_reference(shots, tmp_path, capsys):
    write(tmp_path / "out", range(len(Y)))
    result, text = run(
        capsys, tmp_path / "out", "--label=label", f"--shots={shots}", "--l2=1024", "--seeds=2"
    )
    test = split()
    expected = []
    for seed in range(2):
        order = sorted(
            np.flatnonzero(~test), key=lambda n: hashlib.sha256(f"{seed}\0digit-{n}".encode()).digest()
        )
        drawn = np.concatenate([[n for n in order if Y[n] == c][:shots] for c in range(10)])
        predicted = reference(X[drawn].astype(np.float64), Y[drawn], X[test].astype(np.float64), 1024.0)
        expected.append((predicted == Y[test]).mean())
    (row,) = result["results"]
    np.testing.assert_allclose(row["of_each_seed"], expected, atol=1.5 / test.sum())
    assert row["mean"] == pytest.approx(np.mean(row["of_each_seed"]))
    assert (row["lowest"], row["highest"]) == (min(row["of_each_seed"]), max(row["of_each_seed"]))
    low, high = t.interval(0.95, 1, row["mean"], np.std(row["of_each_seed"], ddof=1) / np.sqrt(2))
    assert row["interval"] == pytest.approx([max(0, low), min(1, high)], abs=1e-4)
    assert "95% interval" in text
    assert result["classified"] == test.sum()
    assert result["to_learn_from"] + result["classified"] == len(Y)
    assert f"{shots:4} per class: " in text


@pytest.mark.parametrize("seeds", [2, 3, 5, 7, 10, 30, 100])
def test_the_interval_is_students(seeds):
    accuracies = np.random.default_rng(seeds).uniform(0.4, 0.6, seeds)
    expected = t.interval(0.95, seeds - 1, accuracies.mean(), accuracies.std(ddof=1) / np.sqrt(seeds))
    assert fewshot.interval(accuracies) == pytest.approx(expected, abs=2e-4)


def test_an_interval_needs_two_seeds_and_ends_at_certainty(tmp_path, capsys):
    assert fewshot.interval(np.array([0.5])) is None
    assert fewshot.interval(np.array([1.0, 0.98])) == (pytest.approx(0.99 - 0.12706, abs=1e-4), 1.0)
    write(tmp_path / "out", range(200))
    result, text = run(capsys, tmp_path / "out", "--label=label", "--shots=1", "--seeds=1")
    assert result["results"][0]["interval"] is None
    assert "one seed, so no interval" in text


def test_more_shots_do_better_and_l2_is_chosen_on_other_images(tmp_path, capsys):
    write(tmp_path / "out", range(len(Y)), label=lambda y: f"number {y}", failures=2)
    result, text = run(capsys, tmp_path / "out", "--label=label", "--shots=1,5,20")
    means = [row["mean"] for row in result["results"]]
    assert means == sorted(means)
    assert 0.35 < means[0] < 0.75 < means[1] < means[2]
    assert [row["l2_chosen_on"] for row in result["results"]] == [100, 100, 100]
    assert all(row["l2"] in ridge.GRID for row in result["results"])
    assert result["failed"] == {"bad_jpeg": 2}
    assert "failed: 2 bad_jpeg" in text


def test_the_order_of_the_input_and_its_shards_change_nothing(tmp_path, capsys):
    write(tmp_path / "a", range(400))
    write(tmp_path / "b", reversed(range(400)), shards=7)
    flags = ("--label=label", "--shots=1,3")
    assert run(capsys, tmp_path / "a", *flags)[0] == run(capsys, tmp_path / "b", *flags)[0]


def test_another_output_of_test_images(tmp_path, capsys):
    train = [n for n in range(1000) if Y[n] != 9]
    write(tmp_path / "train", train)
    write(tmp_path / "test", range(1000, 1200))
    result, text = run(
        capsys, tmp_path / "train", f"--test={tmp_path / 'test'}", "--label=label", "--shots=5"
    )
    nines = int((Y[1000:1200] == 9).sum())
    assert (result["classes"], result["to_learn_from"], result["classified"]) == (9, len(train), 200)
    assert result["classified_of_no_class"] == nines
    assert result["results"][0]["highest"] <= 1 - nines / 200
    assert f"{nines} of a class without an image to learn from: counted as wrong" in text


def test_classes_with_few_images_and_images_without_a_label_are_said(tmp_path, capsys):
    few = [n for n in range(300) if Y[n] != 3] + [n for n in range(300) if Y[n] == 3][:2]
    records = [{"key": f"digit-{n}", "label": int(Y[n]), "embedding": X[n].tolist()} for n in few]
    records += [{"key": f"x{n}", "embedding": X[n].tolist()} for n in range(4)]
    outputs.write(tmp_path / "out", [records], {"embedding": 64})
    result, text = run(capsys, tmp_path / "out", "--label=label", "--shots=5")
    assert result["without_one_label"] == {"no label": 4}
    assert result["results"][0]["classes_with_fewer_images"] == 1
    assert "; 1 class has fewer images" in text
    # Where nothing is left to choose l2 on, it is big_vision's.
    result, text = run(capsys, tmp_path / "out", "--label=label", "--shots=300")
    assert (result["results"][0]["l2"], result["results"][0]["l2_chosen_on"]) == (1024.0, 0)
    assert "not chosen" in text


def test_memory_holds_what_was_drawn_only(tmp_path, monkeypatch, capsys):
    kept = []

    def watched(drawn, labels, shots, settings, original=fewshot._fit):
        kept.append({id(v) for by_class in drawn for d in by_class.values() for v in d.vectors})
        return original(drawn, labels, shots, settings)

    monkeypatch.setattr(fewshot, "_fit", watched)
    write(tmp_path / "out", range(len(Y)))
    run(capsys, tmp_path / "out", "--label=label", "--shots=1", "--seeds=2")
    assert len(kept[0]) <= 2 * 10 * (1 + 10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label=other"], "it passed through label"),
        (["--label=label", "--feature=logits"], "holds no logits"),
        (["--label=label", "--test=none"], "no output of a finished job"),
    ],
)
def test_a_wrong_request_is_refused(flags, message, tmp_path, capsys):
    write(tmp_path / "out", range(50))
    assert message in run(capsys, tmp_path / "out", *flags, expect=2)[1]


def test_one_class_alone_is_refused(tmp_path, capsys):
    write(tmp_path / "out", [n for n in range(200) if Y[n] == 4])
    assert "labels of 1 class in" in run(capsys, tmp_path / "out", "--label=label", expect=2)[1]


@pytest.mark.parametrize(
    "flag", ["--shots=0", "--shots=a", "--shots=1e3", "--seeds=0", "--test_share=1", "--l2=0"]
)
def test_flags_out_of_range_are_refused(flag, tmp_path, capsys):
    said = run(capsys, tmp_path, "--label=label", flag, expect=2)[1]
    assert flag.split("=")[0] in said
    assert "_shots" not in said
