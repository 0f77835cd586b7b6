"""From measured costs to the time of a job: the arithmetic."""

from dataclasses import replace

import pytest

from pipeline.dry_run.estimate import (
    NOTHING,
    Cost,
    Job,
    Measured,
    ShardSample,
    estimate,
    overlapping,
    sequential,
    stages_of,
)

JOB = Job(units=100, shards=1, batch_size=10, cpus=2)
FREE = Measured(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
START_AND_END = 0.4


def busy(seconds):
    return Cost(seconds, seconds)


def calls(*seconds):
    call, fastest, slowest = map(Cost, seconds)
    return replace(FREE, call=call, fastest_call=fastest, slowest_call=slowest)


def images(units=100, image_units=1, **costs):
    return ShardSample(units, image_units, **{"input": NOTHING, "decode": NOTHING, **costs})


@pytest.mark.parametrize(
    ("stages", "together", "apart"),
    [
        # a device of its own: the slowest stage sets the time
        ({"input": Cost(9), "model": Cost(5)}, 9, 14),
        ({"model": Cost(5), "decode": busy(4)}, 5, 9),
        ({"model": Cost(5), "write": Cost(7)}, 7, 12),
        ({"model": Cost(5), "commit": Cost(7)}, 7, 12),
        # two CPUs have no more CPU time to give
        ({"model": Cost(5), "decode": Cost(15, 30)}, 15, 20),
        ({"model": Cost(5, 10), "decode": Cost(2, 4)}, 7, 7),
        # a model on one CPU leaves the other to the decoders, if it can be used
        ({"model": busy(5), "decode": busy(4)}, 5, 9),
    ],
)
def test_what_sets_the_time(stages, together, apart):
    assert overlapping(JOB, stages) == pytest.approx(together + START_AND_END)
    assert sequential(stages) == pytest.approx(apart + START_AND_END)


def test_stages_cost_what_their_images_batches_and_shards_do():
    measured = replace(FREE, call=Cost(3, 6), write=busy(0.5), commit=busy(2))
    sample = images(input=Cost(1), decode=Cost(1, 2))
    count, stages = stages_of(replace(JOB, shards=4), [sample], measured)
    assert count == 100
    assert stages == {
        "input": Cost(100),
        "decode": Cost(100, 200),
        "model": Cost(4 * 3 * 3, 4 * 3 * 6),  # 25 images per shard: two full batches and a short one
        "write": busy(50),
        "commit": busy(8),
    }


def test_short_batches_cost_as_much_as_full_ones():
    measured = replace(FREE, call=Cost(1))
    assert stages_of(replace(JOB, shards=50), [images()], measured)[1]["model"] == Cost(50)
    assert stages_of(JOB, [images()], measured)[1]["model"] == Cost(10)


def test_a_shard_stands_for_its_neighbors():
    """Of small images there are ten times as many, in the same bytes."""
    small = images(units=1000, image_units=1, decode=busy(1))
    large = images(units=1000, image_units=10, decode=busy(10))
    job = replace(JOB, units=2000, shards=2)
    found = estimate(job, [small, large], FREE)
    assert (found.images, found.stages["decode"]) == (1100, busy(2000))
    twice = estimate(replace(job, units=4000, shards=4), [small, large], FREE)
    assert (twice.images, twice.stages["decode"]) == (2200, busy(4000))


def test_of_one_shard_the_range_is_that_of_the_overlap():
    found = estimate(JOB, [images(decode=busy(2))], calls(2, 2, 2))
    assert found.seconds == found.low == pytest.approx(200 + START_AND_END)
    assert found.high == pytest.approx(200 + 10 * 2 + START_AND_END)


def test_of_several_all_may_be_like_the_fastest_or_the_slowest():
    samples = [images(units=25, decode=busy(seconds)) for seconds in (1, 2, 2, 3)]
    found = estimate(replace(JOB, shards=10), samples, calls(2, 1, 3))
    assert found.low == pytest.approx(100 + START_AND_END)
    assert found.seconds == pytest.approx(200 + START_AND_END)
    assert found.high == pytest.approx(300 + 10 * 3 + START_AND_END)


def test_shards_that_are_slow_in_different_stages_overlap():
    samples = [
        images(units=50, input=Cost(3), decode=busy(1)),
        images(units=50, input=Cost(1), decode=busy(3)),
    ]
    found = estimate(replace(JOB, shards=2), samples, FREE)
    assert found.low == found.seconds == pytest.approx(200 + START_AND_END)
    assert found.high == pytest.approx(400 + START_AND_END)


def test_where_the_model_sets_the_time_its_calls_set_the_range():
    found = estimate(JOB, [images()], calls(5, 4, 7))
    assert (found.low, found.seconds, found.high) == pytest.approx((40.4, 50.4, 70.4))
