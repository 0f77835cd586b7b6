"""The BiT-HyperRule equals the authors' code: tests/golden/finetune/hyperrule.npz."""

import json

import numpy as np
import pytest

from bit import hyperrule
from bit.training import micro_batches
from tests.checkpoints import FOLDER
from tests.golden.finetune import weights_ft


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "finetune" / "hyperrule.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("examples", [1_000, 100_000, 1_000_000])
def test_the_rate_is_the_authors_at_every_step(golden, examples):
    schedule = hyperrule.schedule(examples)
    rates = [schedule.rate(int(step)) for step in golden[f"lr_{examples}/step"]]
    expected = [None if np.isnan(rate) else rate for rate in golden[f"lr_{examples}/rate"]]
    assert rates == expected
    assert None in expected  # the file covers the end


def test_the_schedule_and_mixup_of_every_size(golden):
    for size, alpha, steps in zip(
        golden["dataset_size"], golden["mixup_alpha"], golden["schedule"], strict=True
    ):
        rule = hyperrule.schedule(int(size))
        assert [rule.warm_up, *rule.decays, rule.end] == list(steps)
        assert hyperrule.mixup_alpha(int(size)) == alpha


def test_the_resolution_of_every_size(golden):
    for (height, width), expected in zip(golden["picture_height_width"], golden["precrop_crop"], strict=True):
        rule = hyperrule.resolution(int(height) * int(width))
        assert [rule.resize, rule.crop] == list(expected)


def test_the_rate_around_its_borders():
    schedule = hyperrule.schedule(1_000)
    assert schedule.rate(0) == 0
    assert schedule.rate(100) == 0.003
    assert schedule.rate(200) == 0.003  # at a decay still the old one
    assert schedule.rate(201) == 0.003 / 10
    assert schedule.rate(301) == 0.003 / 10 / 10 != 0.003 / 100  # as the authors divide
    assert schedule.rate(499) == 0.003 / 10 / 10 / 10
    assert schedule.rate(500) is None


@pytest.mark.parametrize("end", [10, 60, 1_000])
def test_a_schedule_of_another_length_has_the_same_shape(end):
    scaled = hyperrule.schedule(1_000).scaled_to(end)
    assert (scaled.warm_up, *scaled.decays, scaled.end) == tuple(end * n // 5 for n in (1, 2, 3, 4, 5))


@pytest.mark.parametrize("name", ["case2-r50x1-64px-mixup-warmup", "case2b-r50x1-64px-mixup-full"])
def test_mixup_draws_as_the_authors_do(name):
    case = weights_ft.CASES[name]
    with np.load(FOLDER / "finetune" / f"{name}.npz") as stored:
        coefficients, permutations = stored["mixup_coefficient"], stored["mixup_permutation"]
        assert json.loads(str(stored["recipe"]))["data_seed"] == case.data_seed
    draw = np.random.RandomState(case.data_seed + 3)
    present = np.ones(case.batch, bool)
    for coefficient, permutation in zip(coefficients, permutations, strict=True):
        mixup = hyperrule.mixup(draw, case.mixup_alpha, present, micro_batches(case.batch, case.batch))
        assert mixup.coefficient == pytest.approx(coefficient, rel=1e-12)
        assert list(mixup.partners) == list(permutation[0])


def test_partners_are_present_and_of_the_same_micro_batch():
    present = np.array([True, False, True, True, True, False, True, True, True, True])
    rows = micro_batches(10, 4)
    mixup = hyperrule.mixup(hyperrule.draws(3, 7), 0.1, present, rows)
    assert 0 <= mixup.coefficient <= 1
    assert sorted(mixup.partners) == list(range(10))  # a permutation
    assert any(mixup.partners != np.arange(10))
    for row, partner in enumerate(mixup.partners):
        assert row // 4 == partner // 4
        assert present[partner] if present[row] else partner == row
    assert hyperrule.mixup(hyperrule.draws(3, 7), 0.0, present, rows) is None


def test_draws_depend_on_every_number_and_on_nothing_else():
    first = {
        what: hyperrule.draws(*what).randint(0, 1 << 30)
        for what in ((0, 1), (1, 1), (0, 2), (1 << 32, 1), (0, 1, 2))
    }
    assert len(set(first.values())) == len(first)
    assert hyperrule.draws(0, 1).randint(0, 1 << 30) == first[0, 1]
