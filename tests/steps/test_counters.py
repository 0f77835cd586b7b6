"""Counts of the process, and their metrics."""

import threading
from dataclasses import fields

from transforms import counters
from transforms.counters import Counts, Tally


def test_the_process_counts_are_safe_under_threads():
    tally = Tally()
    drained = []

    def work():
        for _ in range(1000):
            tally.add(out_features=1, read_seconds=0.0004)
            tally.failed({"bad_row": 1})
            drained.append(tally.drain())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tally.counts().out_features, tally.counts().failures) == (8000, 8000)
    assert tally.drain() == {}
    expected = {"out-features": 8000, "failures-bad_row": 8000, "read-msec": 3200}
    sums = {name: sum(amounts.get(name, 0) for amounts in drained) for name in expected}
    assert abs(sums.pop("read-msec") - expected.pop("read-msec")) <= 1  # whole milliseconds
    assert sums == expected


def test_counts_come_back_from_their_metrics():
    numbers = [field.name for field in fields(Counts) if field.name != "failures_by_code"]
    values = {name: number for number, name in enumerate(numbers, 1)}
    counts = Counts(failures_by_code={"bad_row": 5, "not_found": 7}, **values)
    sums = counts.metrics()
    assert len(sums) == len(numbers) + 2
    assert all(
        name.replace("_", "-") == name or name == "failures-bad_row" or name == "failures-not_found"
        for name in sums
    )
    assert (sums["in-images"], sums["failures-bad_row"]) == (counts.in_images, 5)
    assert sums["wait-read-msec"] == 1000 * counts.wait_read_seconds
    assert counters.from_metrics({**sums, "num_inferences": 9}) == counts
    assert counts.failures == 12
