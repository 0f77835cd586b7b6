"""`python -m pipeline.fewshot OUTPUT --label=FEATURE`: how well a linear classifier on a few features per class does."""

from __future__ import annotations

import argparse
import bisect
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bit.command import exit_with
from pipeline import ridge
from pipeline.console import counted, say
from pipeline.flags import RequestError
from pipeline.labelled import Label, Labelled, NotUsable, Row, judged, open_output, parser

_CHOOSING = 10  # images per class, beside the shots, on which l2 is chosen
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447)  # of Student's t with 1, 2, ... degrees of freedom
_ROWS = 1024  # images that are classified at once


@dataclass(frozen=True)
class Settings:
    """What is evaluated."""

    shots: tuple[int, ...] = (1, 5, 10)
    seeds: int = 3
    l2: float | None = None  # None: chosen from ridge.GRID
    feature: str = "embedding"
    test_share: float = 0.2  # of the images, by a hash of the key, if there is no output of test images


@dataclass
class _Drawn:
    """The first images of a class in the order of one seed: those for the shots, then those for the choice of l2."""

    size: int
    ranks: list[bytes] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)

    def offer(self, rank: bytes, vector: np.ndarray) -> None:
        if len(self.ranks) == self.size and rank > self.ranks[-1]:
            return
        at = bisect.bisect(self.ranks, rank)
        self.ranks.insert(at, rank)
        self.vectors.insert(at, vector)
        del self.ranks[self.size :], self.vectors[self.size :]


def evaluate(train: Labelled, settings: Settings, test: Labelled | None = None) -> dict[str, Any]:
    """Accuracies of ridge regression on `shots` images per class: see docs/output.md.

    Without `test`, the images of `train` whose key has a hash in the `test_share` are those that are classified. Reads the
    output twice, record by record. Memory: `seeds` times the largest shot plus ten vectors per class, and a matrix of
    classes times features per seed and shot. Raises NotUsable if there is nothing to learn from or to classify.
    """
    size = train.manifest["dimensions"].get(settings.feature)
    for output in filter(None, (train, test)):
        if output.manifest["dimensions"].get(settings.feature) != size or not isinstance(size, int):
            raise NotUsable(
                f"{output.layout.folder} holds no {settings.feature} of {size or 'any'} values per image: it has "
                f"{output.manifest['dimensions']}"
            )
    wanted = max(settings.shots) + _CHOOSING
    drawn: list[dict[Label, _Drawn]] = [{} for _ in range(settings.seeds)]
    in_train: Counter[Label] = Counter()
    for row in _split(train, settings, test, held_out=False):
        in_train[row.label] += 1
        vector = np.asarray(row.values[settings.feature], np.float32)
        for seed, by_class in enumerate(drawn):
            by_class.setdefault(row.label, _Drawn(wanted)).offer(_hash(f"{seed}", row.key), vector)
    if len(in_train) < 2:
        raise NotUsable(
            f"{train.layout.folder} has labels of {len(in_train)} class{'es' * (len(in_train) != 1)} in {train.label!r} to "
            "learn from: two or more are needed"
        )
    left_out = dict(train.left_out)
    labels = sorted(in_train, key=lambda label: (isinstance(label, str), label))
    models = {shots: _fit(drawn, labels, shots, settings) for shots in settings.shots}
    drawn.clear()

    numbers = {label: number for number, label in enumerate(labels)}
    right = {shots: np.zeros(settings.seeds, np.int64) for shots in settings.shots}
    images = of_no_class = 0
    for batch in _batches(_split(test or train, settings, test, held_out=True)):
        vectors = np.stack([np.asarray(row.values[settings.feature], np.float32) for row in batch])
        truth = np.array([numbers.get(row.label, -1) for row in batch])
        images, of_no_class = images + len(batch), of_no_class + int((truth < 0).sum())
        for shots, (_, _, linear) in models.items():
            for seed, (kernel, bias) in enumerate(linear):
                right[shots][seed] += int((np.argmax(vectors @ kernel + bias, 1) == truth).sum())
    if not images:
        raise NotUsable("no image to classify: give --test=OUTPUT, or a larger --test_share")
    results = []
    for shots, (l2, chosen_on, _) in models.items():
        accuracy = right[shots] / images
        results.append(
            {
                "shots": shots,
                "mean": float(accuracy.mean()),
                "interval": interval(accuracy),
                "lowest": float(accuracy.min()),
                "highest": float(accuracy.max()),
                "of_each_seed": accuracy.tolist(),
                "l2": l2,
                "l2_chosen_on": chosen_on,
                "classes_with_fewer_images": sum(count < shots for count in in_train.values()),
            }
        )
    failed = Counter(train.failures) + Counter(test.failures if test else {})
    not_used = Counter(left_out) + Counter(test.left_out if test else {})
    return {
        "classes": len(labels),
        "to_learn_from": in_train.total(),
        "classified": images,
        "classified_of_no_class": of_no_class,  # no image of that class to learn from: always wrong
        "failed": dict(failed),
        "without_one_label": dict(not_used),
        "results": results,
    }


def _fit(
    drawn: Sequence[Mapping[Label, _Drawn]], labels: Sequence[Label], shots: int, settings: Settings
) -> tuple[float, int, list[tuple[np.ndarray, np.ndarray]]]:
    """The l2, the images per seed that it was chosen on, and the classifier of each seed."""
    solvers, right, chosen_on = [], np.zeros((len(drawn), len(ridge.GRID))), 0
    for seed, by_class in enumerate(drawn):
        x, y = _stack([by_class[label].vectors[:shots] for label in labels])
        solver = ridge.solve(x, y, len(labels))
        solvers.append(solver)
        if settings.l2 is None:
            first = max(settings.shots)  # the same images for every number of shots
            x, y = _stack([by_class[label].vectors[first:] for label in labels])
            chosen_on = len(y)
            if chosen_on:
                projected = solver.projected(x)
                right[seed] = [(solver.predict(projected, l2) == y).mean() for l2 in ridge.GRID]
    if settings.l2 is not None:
        l2 = settings.l2
    elif chosen_on:
        means = right.mean(0)
        l2 = ridge.GRID[int(np.flatnonzero(means == means.max())[-1])]  # of equals the smoothest
    else:
        l2 = ridge.FIXED
    return l2, chosen_on, [solver.linear(l2) for solver in solvers]


def _stack(vectors: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    counts = [len(of_class) for of_class in vectors]
    flat = [vector for of_class in vectors for vector in of_class]
    return np.stack(flat) if flat else np.zeros((0, 1)), np.repeat(np.arange(len(counts)), counts)


def _split(output: Labelled, settings: Settings, test: Labelled | None, held_out: bool) -> Iterator[Row]:
    for row in output.rows():
        if test is not None or _is_test(row.key, settings.test_share) == held_out:
            yield row


def _is_test(key: bytes, share: float) -> bool:
    return int.from_bytes(_hash("test", key)[:8], "big") < share * 2.0**64


def _hash(salt: str, key: bytes) -> bytes:
    """Orders images the same way in any order of the input."""
    return hashlib.sha256(salt.encode() + b"\0" + key).digest()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _say(result: Mapping[str, Any], folder: str) -> None:
    sizes = f"{counted(result['to_learn_from'], 'image')} to learn from, {result['classified']:,} classified"
    say(f"{folder}: {counted(result['classes'], 'class', 'classes')}, {sizes}")
    for what, counts in (("failed", result["failed"]), ("without one label", result["without_one_label"])):
        if counts:
            say(f"  {what}: {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}")
    if result["classified_of_no_class"]:
        say(
            f"  {result['classified_of_no_class']} of a class without an image to learn from: counted as wrong"
        )
    for row in result["results"]:
        others = counted(row["l2_chosen_on"], "other image")
        chosen = f"chosen on {others}" if row["l2_chosen_on"] else "not chosen"
        fewer = row["classes_with_fewer_images"]
        say(
            f"{row['shots']:4} per class: {100 * row['mean']:5.1f}% ({_interval_text(row)}; l2 {row['l2']:g}, {chosen})"
            + (f"; {counted(fewer, 'class has', 'classes have')} fewer images" if fewer else "")
        )


def interval(accuracies: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval, within [0, 1], of the mean over all draws, by Student's t, from those of some; None from one alone."""
    count = len(accuracies)
    if count < 2:
        return None
    mean = float(accuracies.mean())
    half = _t975(count - 1) * float(accuracies.std(ddof=1)) / math.sqrt(count)
    return max(0.0, mean - half), min(1.0, mean + half)


def _t975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, within 1e-3: from a table, then by Abramowitz and Stegun 26.7.5."""
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z, n = 1.959963985, degrees
    g1, g2 = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / n + g2 / n**2 + g3 / n**3


def _shots(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers such as 1,5,10")
    return tuple(sorted(set(map(int, parts))))


def _interval_text(row: Mapping[str, Any]) -> str:
    if row["interval"] is None:
        return "one seed, so no interval"
    interval, seeds = (
        f"{100 * low:.1f}% to {100 * high:.1f}%"
        for low, high in (row["interval"], (row["lowest"], row["highest"]))
    )
    return f"95% interval {interval}; {len(row['of_each_seed'])} seeds, {seeds}"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if an output is damaged, 2 if the request is wrong."""
    default = Settings()
    own = parser(
        "fewshot",
        "Judges features that a job wrote: ridge regression on a few images per class, as BiT and ViT do.",
    )
    own.add_argument(
        "--shots",
        type=_shots,
        default=default.shots,
        metavar="N,...",
        help="images per class (default: 1,5,10)",
    )
    own.add_argument(
        "--seeds", type=int, default=default.seeds, metavar="N", help="random draws of them (default: 3)"
    )
    own.add_argument(
        "--test", default="", metavar="OUTPUT", help="output of a job on test images, with the same label"
    )
    own.add_argument(
        "--test_share",
        type=float,
        default=default.test_share,
        metavar="SHARE",
        help="without --test: share of the images that is classified, by a hash of the key (default: 0.2)",
    )
    own.add_argument("--feature", default=default.feature, metavar="NAME", help="default: embedding")
    own.add_argument(
        "--l2",
        type=float,
        metavar="L2",
        help="strength of the regularization, such as big_vision's 1024 (default: chosen from 2^-10 to 2^20 on ten further "
        "images per class)",
    )

    def judge(arguments: argparse.Namespace) -> Mapping[str, Any]:
        settings = _settings(arguments)
        test = open_output(arguments.test, arguments.label) if arguments.test else None
        return evaluate(open_output(arguments.output, arguments.label), settings, test)

    return judged(argv, own, judge, _say)


def _settings(arguments: argparse.Namespace) -> Settings:
    if (
        arguments.seeds < 1
        or not 0 < arguments.test_share < 1
        or (arguments.l2 is not None and not arguments.l2 > 0)
    ):
        raise RequestError("--seeds must be positive, --test_share between 0 and 1, and --l2 above 0")
    return Settings(arguments.shots, arguments.seeds, arguments.l2, arguments.feature, arguments.test_share)


if __name__ == "__main__":
    exit_with(main)
