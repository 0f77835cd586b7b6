"""One training run, from its request to the exported model."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np

from bit import export, hyperrule, training
from bit.checkpoint import open_checkpoint
from bit.hyperrule import Mixup
from bit.models import ARCHITECTURES, HEADS, Model
from bit.training import Batch, Settings, Trainer
from bit.weights import Untrained, Weights
from pipeline.console import counted, say
from pipeline.finetune import checkpoints, evaluation, failures, folder, journal, loading, report
from pipeline.finetune.data import Data
from pipeline.finetune.evaluation import Evaluation
from pipeline.finetune.examples import Examples, Input
from pipeline.finetune.failures import Failed, NothingUsable
from pipeline.finetune.journal import Journal
from pipeline.finetune.loading import Loader, Pictures
from pipeline.finetune.order import MIXUP, Order
from pipeline.finetune.request import Request
from pipeline.signals import Signals, Stopped

_EVALUATIONS = 10


def weights_of(model: Model, path: str) -> Weights:
    """The arrays that training starts from, at the local `path` ('' for untrained ones). Raises UnusableModel."""
    if model.kind == "untrained":
        return Untrained(ARCHITECTURES[model.architecture], HEADS.get(model.head, 0))
    return open_checkpoint(path, model.architecture)


class Run:
    """A run in its output folder, which it continues from the last checkpoint."""

    def __init__(self, request: Request, data: Data, weights: str, signals: Signals):
        """`weights` is the local path of the checkpoint that training starts from; '' for untrained ones."""
        self._request, self._data, self._signals = request, data, signals
        settings = Settings(
            data.recipe.resolution.crop,
            request.micro_batch,
            request.train,
            request.precision,
            request.momentum,
        )
        self._trainer = Trainer(weights_of(request.model, weights), len(data.names), settings)
        self._folder = request.output / folder.CHECKPOINTS
        self._order = Order(
            data.training.shards, data.training.positions, request.batch_size, request.seed, data.window
        )
        self._failed = {one.place: one for one in data.failed}

    def train(self) -> Evaluation:
        """Trains to the end and evaluates. Raises Stopped after a signal and a checkpoint, and NothingUsable."""
        request, schedule = self._request, self._data.recipe.schedule
        step = checkpoints.restore(self._folder, self._trainer)
        if step:
            say(f"going on from the checkpoint before step {step}")
        notes = Journal(request.output, step, schedule.end)
        loader = Loader(
            self._data.training_input,
            self._data.training,
            self._order,
            self._data.recipe.resolution,
            request.decode(self._data.recipe.resolution.resize),
            request.cache,
            keep=len(self._data.training) <= self._data.window,
            flip=not request.no_flip,
        )
        every = request.evaluate_every or -(-schedule.end // _EVALUATIONS)
        saved_at, saved_step, without = time.monotonic(), step, 0
        found = _NOTHING
        with closing(notes), closing(loader.batches(step, self._signals.check)) as updates:
            try:
                while True:
                    self._signals.check()
                    rate = schedule.rate(step, request.base_rate)
                    is_late = time.monotonic() - saved_at >= 60 * request.checkpoint_minutes
                    if (rate is None or is_late) and step != saved_step:
                        self._save(step)
                        saved_at, saved_step = time.monotonic(), step
                    is_due = step and (step % every == 0 or rate is None)
                    if is_due and not notes.was_evaluated(step - 1) and len(self._data.validation):
                        found = self._evaluate(notes, step - 1)
                    if rate is None:
                        self._write_failures()
                        return found
                    update = next(updates)
                    batch = update.batch
                    result = self._update(batch, step, rate)
                    if not math.isfinite(result.loss):  # before a checkpoint keeps it
                        raise FloatingPointError(
                            f"the loss is {result.loss} at update {step}: training diverged. Use another --output and a lower "
                            f"--base_rate than {self._request.base_rate:g}"
                        )
                    self._note(
                        update.failed,
                        self._data.training_input,
                        self._data.training,
                        update.examples[batch.present],
                    )
                    right = (result.logits.argmax(1) == batch.labels) & batch.present
                    count = int(batch.present.sum())
                    accuracy = int(right.sum()) / max(1, count)
                    notes.trained(step, result.loss, accuracy, rate, count, len(self._failed))
                    step += 1
                    without = 0 if count else without + len(batch.present)
                    if without >= len(self._data.training):
                        self._write_failures()
                        such = list(self._failed.values())[-1]
                        raise NothingUsable(
                            f"{counted(without, 'picture')} in a row could not be used, as many as there are to train on, "
                            f"such as {such}"
                        )
            except Stopped:
                if step != saved_step:
                    self._save(step)
                raise

    def _save(self, step: int) -> None:
        self._write_failures()
        checkpoints.save(self._folder, self._trainer, step)

    def _note(self, failed: Sequence[Failed], source: Input, examples: Examples, used: np.ndarray) -> None:
        """Adds what has failed, and takes away what could be used after it had failed earlier."""
        self._failed |= {one.place: one for one in failed}
        if self._failed:
            for shard, position in zip(examples.shards[used], examples.positions[used], strict=True):
                self._failed.pop(source.place(shard, int(position)), None)

    def _write_failures(self) -> None:
        failures.write(self._request.output / folder.FAILURES, self._failed.values())

    def _update(self, batch: Batch, step: int, rate: float) -> training.Result:
        def mixing(rows: Sequence[slice]) -> Mixup | None:
            draw = hyperrule.draws(self._request.seed, MIXUP, step)
            return hyperrule.mixup(draw, self._data.recipe.mixup_alpha, batch.present, rows)

        return self._trainer.update(batch, rate, mixing, self._signals.check)

    def _evaluate(self, notes: Journal, step: int) -> Evaluation:
        data = self._data
        decode = self._request.decode(data.recipe.resolution.crop, self._trainer.micro_batch)

        def noted() -> Iterator[Pictures]:
            for part in pictures:
                self._note(part.failed, data.validation_input, data.validation, part.examples)
                yield part

        decoded = loading.decoded(data.validation_input, data.validation, decode)
        with closing(loading.ahead(decoded, 1, self._signals.check)) as pictures:
            found = evaluation.evaluate(self._trainer.predictor(), noted(), data.validation.classes)
        values = {
            "evaluation/loss": found.loss,
            "evaluation/top1": found.top1,
            "evaluation/top5": found.top5,
        }
        notes.add({"step": step, **values})
        say(
            f"step {step + 1}: {found.top1:.1%} of {counted(found.pictures, 'picture')} right (top 5: {found.top5:.1%})"
        )
        return found

    @property
    def failed(self) -> int:
        """The number of examples that could not be used."""
        return len(self._failed)

    def write(self, found: Evaluation, about: dict[str, Any]) -> None:
        """Writes the model, its weights under the official names, and the reports. The last of them marks the run as done."""
        output, names, crop = self._request.output, self._data.names, self._data.recipe.resolution.crop
        weights, orientation = self._trainer.weights(), self._request.preprocessing.exif_orientation
        export.write_checkpoint(weights, str(output / folder.WEIGHTS), names, crop, orientation)
        partial = output / f"{folder.MODEL}.partial"
        for path in (partial, output / folder.MODEL):
            shutil.rmtree(path, ignore_errors=True)
        try:
            export.export(
                weights, str(partial), head=True, side=crop, classes=names, exif_orientation=orientation
            )
            os.replace(partial, output / folder.MODEL)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        entries = journal.read(output / journal.METRICS)
        summary = self._summary(found, about)
        text = report.page(
            {name: value for name, value in summary.items() if not isinstance(value, list | dict)},
            entries,
            found,
            names,
        )
        checkpoints.replace_file(output / "report.html", lambda stream: stream.write(text.encode()))
        folder.write_json(output / folder.REPORT, summary)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _summary(self, found: Evaluation, about: dict[str, Any]) -> dict[str, Any]:
        data, recipe = self._data, self._data.recipe
        evaluated = found.pictures > 0
        return {
            **about,
            "examples": len(data.training),
            "classes": len(data.names),
            "failed": len(self._failed),
            "evaluated": found.pictures,
            "loss": found.loss if evaluated else None,
            "top1": found.top1 if evaluated else None,
            "top5": found.top5 if evaluated else None,
            "median_area": data.area,
            "image_size": recipe.resolution.crop,
            "resize": recipe.resolution.resize,
            "mixup_alpha": recipe.mixup_alpha,
            "steps": recipe.schedule.end,
            "schedule": asdict(recipe.schedule),
            "rate": self._request.base_rate,
            "momentum": self._request.momentum,
            "batch_size": self._request.batch_size,
            "micro_batch": self._trainer.micro_batch,
            "precision": self._request.precision,
            "train": self._request.train,
            "seed": self._request.seed,
            "per_class": report.per_class(found, data.names) if evaluated else [],
        }


_NOTHING = Evaluation(0, 0.0, 0.0, 0.0, Counter(), [])
