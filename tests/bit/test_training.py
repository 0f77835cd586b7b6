"""The step of fine-tuning: the authors' trajectories, and what must hold for any network."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from bit import group_norm_gradient, hyperrule, network, training
from bit.group_norm import group_norm_relu
from bit.models import ARCHITECTURES
from bit.training import Batch, Settings, Trainer
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZED, Untrained, shapes, standardize
from pipeline.finetune import checkpoints
from tests import finetune_parity, finetune_reference, helpers, traced_graphs
from tests.checkpoints import FOLDER
from tests.golden.finetune import weights_ft

TINY = ARCHITECTURES["tiny"]
CASES = sorted(path for path in (FOLDER / "finetune").glob("case*.npz"))
LONGER = [path for path in CASES if path.stem[5] == "b"]  # one of each kind


@pytest.fixture(autouse=True, scope="module")
def traced_graphs_are_kept():
    with traced_graphs.kept():
        yield


def batch(count=8, side=32, classes=5, seed=1, dtype=np.uint8):
    draw = np.random.RandomState(seed)
    pixels = draw.randint(0, 256, (count, side, side, 3)).astype(dtype)
    corners, flips = draw.randint(0, side - 24 + 1, (count, 2)), draw.randint(0, 2, count).astype(bool)
    return Batch(pixels, draw.randint(0, classes, count), corners, flips, np.ones(count, bool))


def trainer(micro_batch=8, **settings):
    return Trainer(Untrained(TINY, 3), 5, Settings(24, micro_batch, **settings))


@pytest.mark.parametrize(
    ("flags", "paths"),
    [
        (("--precision=float64",), LONGER),
        pytest.param(
            ("--precision=float64",), [path for path in CASES if path not in LONGER], marks=pytest.mark.soak
        ),
        # What training itself computes: within the bounds of exact sums, but for one case.
        (("--precision=float32", "--as_trained"), LONGER),
        # That long sums are why it is beyond.
        pytest.param(
            ("--precision=float32",),
            [path for path in CASES if path.stem in finetune_parity.AS_TRAINED],
            marks=pytest.mark.soak,
        ),
    ],
    ids=["float64", "float64, shorter", "as trained", "short sums"],
)
def test_trajectories_are_the_authors(flags, paths, tmp_path):
    """In a process of its own, which chooses its convolutions."""
    for path in paths:
        (tmp_path / path.name).symlink_to(path)
    command = [sys.executable, "-m", "tests.finetune_parity", str(tmp_path), *flags]
    done = subprocess.run(command, cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    precision = flags[0].partition("=")[2]
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert said == [f"{path.stem}, {precision}" for path in paths]


def test_accumulated_and_mixed_updates_are_those_of_plain_formulas(tmp_path, monkeypatch, capsys):
    """Of the tiny network, whose file is written here."""
    finetune_reference.write(tmp_path / "case-tiny.npz")
    check, seen = finetune_parity.check, []
    monkeypatch.setattr(finetune_parity, "check", lambda *values: seen.append(check(*values)) or seen[-1])
    assert finetune_parity.main([str(tmp_path), "--precision=float64"]) == 0
    assert "case-tiny, float64: loss " in capsys.readouterr().out
    with np.load(tmp_path / "case-tiny.npz") as stored:
        arrays = dict(stored)
    assert arrays["gradient_norm"][1:].min() > 0
    assert all(0.2 < coefficient < 0.8 for coefficient, _ in weights_ft.mixup(finetune_reference.CASE))
    off = finetune_parity.deviations(arrays | {"loss": arrays["loss"] * (1 + 1e-8)}, seen[0][1], "float64")
    assert off["loss"] > finetune_parity.FLOAT64["loss"]


def test_wider_bounds_are_for_the_one_case_that_needs_them():
    assert [path.stem for path in CASES if path.stem in finetune_parity.AS_TRAINED] == [
        "case1b-r50x1-64px-decay"
    ]
    assert len(finetune_parity.AS_TRAINED) == 1


def test_a_folder_without_trajectories_fails(tmp_path, capsys):
    assert finetune_parity.main([str(tmp_path)]) == 1
    assert "no golden file" in capsys.readouterr().err


def test_there_are_trajectories():
    assert [path.stem[:7].rstrip("-") for path in CASES] == ["case1-r", "case1b", "case2-r", "case2b"]


def test_a_trainer_that_takes_graphs_over_is_a_fresh_one():
    """As tests of training do (tests/traced_graphs.py)."""
    used = trainer()
    variables, arguments = used._trained, (used._weights, used.classes, used.settings)
    used.update(batch(), 0.1)
    used.update(batch(seed=2), 0.1)
    used.micro_batch, used.scale = 1, 3.0
    del used
    taken, fresh = trainer(), object.__new__(Trainer)
    assert taken._trained is variables
    Trainer.__init__.__wrapped__(fresh, *arguments)
    assert (taken.micro_batch, taken.scale, taken.good_steps) == (fresh.micro_batch, fresh.scale, 0)
    for step in range(3):
        for values in (Trainer.trained, Trainer.momentum):
            np.testing.assert_equal(values(taken), values(fresh))
        assert all(np.array_equal(taken.gradient(name), fresh.gradient(name)) for name in fresh.shapes)
        one, other = (each.update(batch(seed=step), 0.05) for each in (taken, fresh))
        assert one.loss == other.loss
        np.testing.assert_array_equal(one.logits, other.logits)


def test_a_step_of_rate_zero_changes_nothing_but_counts_in_the_momentum():
    one = trainer()
    before = one.trained()
    result = one.update(batch(), 0.0)
    assert result.loss == pytest.approx(np.log(5), rel=1e-12)
    assert all(np.array_equal(before[name], value) for name, value in one.trained().items())
    gradient = one.gradient(HEAD_KERNEL)
    assert np.abs(gradient).max() > 0
    assert np.array_equal(one.momentum()[HEAD_KERNEL], gradient)


def test_the_rate_stays_outside_of_the_momentum():
    """v = 0.9 v + g; w -= rate v. Keras has the rate inside, which differs as soon as the rate does."""
    one = trainer(precision="float64")
    momentum = weights = 0.0
    for step, rate in enumerate((0.0, 0.01, 0.1, 0.001)):
        one.update(batch(seed=step), rate)
        momentum = 0.9 * momentum + one.gradient(HEAD_BIAS)
        weights = weights - rate * momentum
        np.testing.assert_allclose(one.trained()[HEAD_BIAS], weights, rtol=1e-12)


def test_gradients_are_slopes_of_the_loss():
    """Central differences, of an array of each kind, with MixUp, a crop, a mirrored row and a row that is not present."""
    data = batch(dtype=np.float64)._replace(present=np.arange(8) != 3)
    mixup = hyperrule.mixup(hyperrule.draws(5), 0.4, data.present, training.micro_batches(8, 4))
    one = trainer(4, precision="float64")
    one.update(data, 0.1)  # so that the head, and all behind it, has gradients
    start, momentum = one.trained(), one.momentum()
    one.gradients(data, mixup)
    draw = np.random.RandomState(0)
    for name in (f"root_block/{STANDARDIZED}", f"block3/unit01/a/proj/{STANDARDIZED}", "block2/unit01/b/group_norm/gamma",
                 "block4/unit01/c/group_norm/beta", "group_norm/gamma", HEAD_KERNEL, HEAD_BIAS):  # fmt: skip
        one.restore(start, momentum)
        one.gradients(data, mixup)
        direction = draw.standard_normal(start[name].shape)
        slope = float((one.gradient(name) * direction).sum())
        losses = []
        for sign in (1, -1):
            one.restore(start | {name: start[name] + sign * 1e-6 * direction}, momentum)
            losses.append(one.gradients(data, mixup).loss)
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-9), name


@pytest.mark.parametrize("size", [8, 4, 3, 1])
def test_micro_batches_give_the_same_update(size):
    data = batch()._replace(present=np.arange(8) != 5)
    complete, parts = trainer(8, precision="float64"), trainer(size, precision="float64")
    for step in range(3):
        expected, got = complete.update(data, 0.05 * step), parts.update(data, 0.05 * step)
        assert got.loss == pytest.approx(expected.loss, rel=1e-12)
        np.testing.assert_allclose(
            got.logits[data.present], expected.logits[data.present], rtol=1e-8, atol=1e-10
        )
    for name, value in complete.trained().items():
        np.testing.assert_allclose(parts.trained()[name], value, rtol=1e-8, atol=1e-11)


def test_rows_that_are_absent_count_for_nothing():
    data = batch()
    some = np.arange(8) < 6
    garbage = data._replace(pixels=np.where(some[:, None, None, None], data.pixels, 255), present=some)
    fewer = Batch(*(field[:6] for field in data))
    one, other = trainer(precision="float64"), trainer(precision="float64")
    for rate in (0.1, 0.1):
        assert one.update(garbage, rate).loss == pytest.approx(other.update(fewer, rate).loss, rel=1e-12)


def test_crops_and_flips_are_those_of_the_batch():
    data = batch()
    expected = np.stack(
        [
            picture[top : top + 24, left : left + 24][:, :: -1 if flip else 1]
            for picture, (top, left), flip in zip(data.pixels, data.corners, data.flips, strict=True)
        ]
    )
    assert data.flips.any()
    assert not data.flips.all()
    assert np.array_equal(
        training._cropped(*map(tf.constant, (data.pixels, data.corners.astype(np.int32), data.flips)), 24),
        expected,
    )


@pytest.mark.parametrize(("train", "count"), [("all", None), ("last_block", None), ("head", 2)])
def test_only_what_is_trained_changes(train, count):
    one = trainer(train=train)
    before, names = one.weights(), training.trained_names(TINY, 5, train)
    before = {name: before.array(name) for name in shapes(TINY, 5)}
    for rate in (0.1, 0.1, 0.1):
        one.update(batch(), rate)
    after = one.weights()
    changed = {name for name in before if not np.array_equal(before[name], after.array(name))}
    assert changed == set(names)
    assert len(names) == count or count is None
    assert all(name.startswith(("block4/", "group_norm/", "head/")) for name in names) == (train != "all")


def with_a_head(**settings):
    """A trainer whose head is not zero, so that everything behind it has gradients."""
    one = trainer(**settings)
    draw = np.random.RandomState(9)
    trained = one.trained()
    trained[HEAD_KERNEL] = draw.standard_normal(trained[HEAD_KERNEL].shape) * 0.1
    one.restore(trained, one.momentum())
    return one


@pytest.mark.parametrize("train", ["last_block", "head"])
def test_frozen_weights_give_the_same_gradients(train):
    one, other = with_a_head(precision="float64"), with_a_head(precision="float64", train=train)
    assert one.gradients(batch()).loss == pytest.approx(other.gradients(batch()).loss, rel=1e-12)
    for name in training.trained_names(TINY, 5, train):
        expected = one.gradient(name)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(other.gradient(name), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("precision", "off"), [("bfloat16", 0.3), ("float16", 0.2)])
def test_reduced_precisions_have_about_the_same_gradients_and_float32_weights(precision, off):
    exact, one = with_a_head(precision="float64"), with_a_head(precision=precision)
    exact.update(batch(), 0.0)
    one.update(batch(), 0.0)  # which finds the loss scale
    for name in (
        HEAD_KERNEL,
        "group_norm/gamma",
        f"block4/unit01/b/{STANDARDIZED}",
        f"root_block/{STANDARDIZED}",
    ):
        expected, got = exact.gradient(name), one.gradient(name)
        assert got.dtype == np.float32
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert 1e-6 < error < off, (name, error)  # the precision is what it is said to be


def test_an_overflow_in_float16_halves_the_scale_and_repeats_the_update():
    one, other = trainer(precision="float16"), trainer(precision="float16")
    one.scale, other.scale = 2.0**60, 2.0**10
    for _ in range(2):
        one.update(batch(), 0.05)
        other.update(batch(), 0.05)
    assert one.scale < 2.0**60
    for name, value in one.trained().items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(value, other.trained()[name], rtol=0.05, atol=0.02)


def test_out_of_memory_halves_the_micro_batch_and_starts_the_update_again():
    one, other = trainer(8), trainer(2)
    accumulate, sizes = one._accumulate, []

    def limited(pixels, *rest):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return accumulate(pixels, *rest)

    one._accumulate = limited
    drawn = []

    def mixing(rows):
        drawn.append(rows)

    assert one.update(batch(), 0.1, mixing).loss == other.update(batch(), 0.1).loss
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert [len(rows) for rows in drawn] == [1, 2, 4]  # MixUp is drawn for the micro-batches that there are
    assert one.micro_batch == 2
    assert all(np.array_equal(value, other.trained()[name]) for name, value in one.trained().items())
    one._accumulate = lambda *_: limited(np.zeros(3))
    one.micro_batch = 1
    with pytest.raises(training.OutOfMemory, match="one picture at 24"):
        one.update(batch(), 0.1)


def test_out_of_memory_halves_what_is_evaluated_at_once():
    one = trainer(8)
    pixels = batch(side=24, count=7).pixels.astype(np.float32)
    expected = one.predictor()(pixels)
    predict, sizes = one._predict, []

    def limited(pixels, weights):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return predict(pixels, weights)

    one._predict = limited
    predictor = one.predictor()
    for _ in range(2):
        for got, value in zip(predictor(pixels), expected, strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)
    assert sizes == [7, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    one._predict = lambda *_: limited(np.zeros(4), None)
    with pytest.raises(training.OutOfMemory, match="one picture at 24"):
        one.predictor()(pixels)


def test_an_update_that_is_broken_off_changes_nothing():
    one, other = trainer(4), trainer(4)
    one.update(batch(), 0.1)
    other.update(batch(), 0.1)
    calls = []

    def between():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.update(batch(seed=2), 0.1, between=between)
    assert one.update(batch(seed=3), 0.1).loss == other.update(batch(seed=3), 0.1).loss
    for ours, theirs in ((one.trained(), other.trained()), (one.momentum(), other.momentum())):
        assert all(np.array_equal(value, theirs[name]) for name, value in ours.items())


def test_a_checkpoint_keeps_the_loss_scale_and_when_it_grows(tmp_path):
    one, other = trainer(), trainer()
    one.scale, one.good_steps, one.micro_batch = 4096.0, 1234, 2
    checkpoints.save(tmp_path, one, 3)
    assert checkpoints.restore(tmp_path, other) == 3
    assert (other.scale, other.good_steps, other.micro_batch) == (4096.0, 1234, 2)


def test_restored_it_continues_with_the_same_numbers():
    one = trainer()
    for rate in (0.0, 0.1):
        one.update(batch(seed=2), rate)
    other = trainer()
    other.restore(one.trained(), one.momentum())
    assert one.update(batch(seed=3), 0.1).loss == other.update(batch(seed=3), 0.1).loss
    assert np.array_equal(one.trained()[HEAD_KERNEL], other.trained()[HEAD_KERNEL])


def test_predictions_are_those_of_the_network_with_standardized_weights():
    one = trainer()
    one.update(batch(), 0.1)
    one.update(batch(), 0.1)
    pixels = batch(side=24).pixels.astype(np.float32)
    weights = one.weights()
    ready = {name: weights.array(name) for name in shapes(TINY, 5)}
    ready = {
        name: tf.constant(standardize(value) if name.endswith(STANDARDIZED) else value)
        for name, value in ready.items()
    }
    expected = network.embed(pixels / 127.5 - 1, ready, TINY).numpy()
    features, logits = one.predictor()(pixels)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        logits, network.classify(tf.constant(expected), ready).numpy(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_norms_gradient_is_that_of_its_formula(monkeypatch, offset, compiled):
    """Compared with TensorFlow's own gradient in float64; also where a group's mean is large beside its deviation."""
    monkeypatch.setattr(group_norm_gradient, "WORTH_COMPILING", 0)
    draw = np.random.RandomState(4)
    x = draw.standard_normal((2, 6, 5, 16)) + offset
    gamma, beta = draw.uniform(0.5, 1.5, 16), draw.uniform(-0.5, 0.5, 16)
    upstream = draw.standard_normal(x.shape)

    def gradients(call, dtype, compiled):
        inputs = [tf.constant(value, dtype) for value in (x, gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = call(*inputs, 4, dtype, compiled)
        gradients = tape.gradient(y, inputs, tf.constant(upstream, dtype))
        return [value.numpy() for value in (y, *gradients)]

    expected = gradients(group_norm_relu, tf.float64, False)
    for dtype, off in ((tf.float64, 1e-9), (tf.float32, 2e-5)):
        for got, value in zip(
            gradients(group_norm_gradient.group_norm_relu, dtype, compiled), expected, strict=True
        ):
            assert np.abs(got - value).max() < off * np.abs(value).max()
