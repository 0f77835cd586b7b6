"""The job's Beam metrics, in the namespace `bit_features`, as docs/running.md lists them under "Metrics".

Beam attributes a counter to the step whose bundle runs on the calling thread, and ignores counters from other threads. So
the threads that read, decode, write and commit add to `counters.PROCESS`, and the last step of the fused stage hands
those sums over on its bundle's thread. With several bundles in a process, one bundle may hand over what another
counted; each amount is handed over once.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from apache_beam.metrics.metric import Metrics, MetricsFilter

from transforms import counters
from transforms.counters import Counts

NAMESPACE = "bit_features"

_counter = functools.cache(functools.partial(Metrics.counter, NAMESPACE))


def hand_over() -> None:
    """Adds what this process has counted since the last call to Beam's counters. Call it from a DoFn, on its bundle's thread."""
    for name, amount in counters.PROCESS.drain().items():
        _counter(name).inc(amount)


def read(result: Any) -> Counts | None:
    """What the workers of a run counted, summed over its steps; None if its engine does not report metrics.

    `result` is what `pipeline.run()` returned.
    """
    try:
        result._metrics = None  # portable runners cache the answer to the first query
        metrics = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    except Exception:  # the run has succeeded even where the engine has no metrics
        return None
    sums: Counter[str] = Counter()
    for metric in metrics:
        sums[metric.key.metric.name] += metric.result or 0
    return counters.from_metrics(sums) if sums else None
