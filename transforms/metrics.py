"""Beam's metrics of the job, in the namespace `bit_features`: what docs/running.md lists under "Metrics".

Beam attributes a counter to the step whose bundle runs on the calling thread, and ignores one from any other thread. So the
threads that read, decode, write and commit add to `counters.PROCESS`, and the last step of the fused stage hands
over on its bundle's thread what has come together there. With several bundles in a process one may hand over
what another did; each amount is handed over once.
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
    """Gives Beam what this process has counted since the last call. To be called by a DoFn, on its bundle's thread."""
    for name, amount in counters.PROCESS.drain().items():
        _counter(name).inc(amount)


def read(result: Any) -> Counts | None:
    """What the workers of a run counted, summed over its steps; None where its engine does not tell.

    `result` is what `pipeline.run()` gave.
    """
    try:
        result._metrics = None  # portable runners answer every query as they answered the first
        told = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    except Exception:  # whatever an engine answers instead of metrics, the run itself has succeeded
        return None
    sums: Counter[str] = Counter()
    for metric in told:
        sums[metric.key.metric.name] += metric.result or 0
    return counters.from_metrics(sums) if sums else None
