"""The report of a training run: `report.json` for programs, `report.html` for people, in one file without scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from pipeline.finetune.evaluation import Evaluation, Mistake
from pipeline.finetune.examples import text_of
from pipeline.finetune.journal import EVALUATED

_MATRIX_CLASSES = 30  # with more of them, only the pairs most often mistaken are shown
_PAIRS = 30
_WIDTH, _HEIGHT = 640, 200
_STYLE = (
    "body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .5em;text-align:right}th{background:#f4f4f4}"
    "figure{display:inline-block;margin:.4em;width:9em;vertical-align:top;font-size:12px}img{width:9em}"
)


def per_class(evaluation: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """Number of pictures and accuracy of each class."""
    totals, right = [0] * len(names), [0] * len(names)
    for (true, predicted), count in evaluation.pairs.items():
        totals[true] += count
        right[true] += count if true == predicted else 0
    rows = zip(names, totals, right, strict=True)
    return [{"class": name, "count": n, "accuracy": r / n if n else None} for name, n, r in rows]


def page(
    about: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    evaluation: Evaluation,
    names: Sequence[str],
) -> str:
    """The HTML page. `about` is shown as it is, `entries` are those of `metrics.jsonl`."""
    trained = [entry for entry in entries if "learning_rate" in entry]
    evaluated = [entry for entry in entries if EVALUATED in entry]
    parts = ["<h1>Fine-tuning</h1>", _table(about.items())]
    for title, name, other in (
        ("Loss", "loss", "evaluation/loss"),
        ("Accuracy", "accuracy", EVALUATED),
    ):
        lines = [_points(trained, name), _points(evaluated, other)]
        parts.append(
            f"<h2>{title}</h2><p>In training (grey, with crops and MixUp) and evaluated (blue), by step.</p>"
        )
        parts.append(_curve(lines))
    if evaluation.pictures:
        parts += ["<h2>Confusion</h2>", _confusion(evaluation, names)]
        parts.append(f"<h2>Worst mistakes</h2><div>{_mistakes(evaluation.mistakes, names)}</div>")
        parts += ["<h2>Classes</h2>", _classes(evaluation, names)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Fine-tuning</title><style>{_STYLE}</style>'
        + "\n".join(parts)
        + "</html>\n"
    )


def _table(rows: Any) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _points(entries: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
    width = -(-len(points) // _WIDTH) or 1  # at most one point per pixel: means of what lies there
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _curve(lines: Sequence[Sequence[tuple[float, float]]]) -> str:
    every = [point for line in lines for point in line]
    if not every:
        return "<p>none</p>"
    end, top = max(step for step, _ in every) or 1, max(value for _, value in every) or 1
    drawn = ""
    for points, colour in zip(lines, ("#999", "#06c"), strict=True):
        at = " ".join(
            f"{step / end * _WIDTH:.1f},{_HEIGHT * (1 - value / top):.1f}" for step, value in points
        )
        drawn += f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{at}"/>'
    return (
        f'<svg viewBox="-4 -4 {_WIDTH + 8} {_HEIGHT + 8}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>{drawn}</svg>'
        f"<p>0 to {top:.4g}; steps 0 to {end:g}</p>"
    )


def _confusion(evaluation: Evaluation, names: Sequence[str]) -> str:
    if len(names) > _MATRIX_CLASSES:
        wrong = [(pair, count) for pair, count in evaluation.pairs.items() if pair[0] != pair[1]]
        wrong.sort(key=lambda entry: (-entry[1], entry[0]))
        rows = ((f"{names[true]} taken for {names[other]}", count) for (true, other), count in wrong[:_PAIRS])
        return _table(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = ""
    for true, name in enumerate(names):
        cells = "".join(f"<td>{evaluation.pairs[true, other] or ''}</td>" for other in range(len(names)))
        body += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
    return f"<p>Rows: the class; columns: what it was taken for.</p><table><tr><th></th>{head}</tr>{body}</table>"


def _mistakes(mistakes: Sequence[Mistake], names: Sequence[str]) -> str:
    figures = []
    for mistake in mistakes:
        out = io.BytesIO()
        Image.fromarray(mistake.pixels).resize((128, 128)).save(out, "JPEG", quality=80)
        picture = base64.b64encode(out.getvalue()).decode()
        text = f"{names[mistake.true]}, taken for {names[mistake.taken_for]} (loss {mistake.loss:.2f}): {text_of(mistake.key)}"
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{picture}">'
            f"<figcaption>{html.escape(text)}</figcaption></figure>"
        )
    return "".join(figures) or "none"


def _classes(evaluation: Evaluation, names: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(row['class'])}</th><td>{row['count']}</td>"
        f"<td>{'' if row['accuracy'] is None else format(row['accuracy'], '.1%')}</td></tr>"
        for row in per_class(evaluation, names)
        if row["count"]
    )
    return f"<table><tr><th>class</th><th>pictures</th><th>accuracy</th></tr>{rows}</table>"
