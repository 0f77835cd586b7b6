"""The aims of the benchmarks: each row of the summary, computed from the figures that the scripts report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Figures = Mapping[str, float]  # of one run, by name
SMALL, LARGE = "JPEG, ImageNet's size", "JPEG, 12 megapixels"


@dataclass(frozen=True)
class Row:
    """A question, the run whose figures answer it, and its aim, if any."""

    question: str
    run: str
    figure: Callable[[Figures], float]
    template: str  # format of the figure and the aim
    least: float | None = None
    most: float | None = None

    def line(self, runs: Mapping[str, Figures]) -> str:
        """The row of the table; `runs` holds the figures of each run by its name."""
        aim = ""
        if self.least is not None:
            aim = f"at least {self.template.format(self.least)}"
        elif self.most is not None:
            aim = f"at most {self.template.format(self.most)}"
        try:
            value = self.figure(runs[self.run])
        except (KeyError, ValueError, ZeroDivisionError):
            return f"| {self.question} | not measured | {aim} |  |"
        met = ""
        if aim:
            low, high = self.least, self.most
            met = "yes" if (low is None or value >= low) and (high is None or value <= high) else "no"
        return f"| {self.question} | {self.template.format(value)} | {aim} | {met} |"


def best_peer(figures: Figures) -> float:
    """The rate of the fastest contender on small JPEGs that is not ours and does resize."""
    return max(
        rate
        for name, rate in figures.items()
        if name.startswith(f"{SMALL}: ") and not name.startswith((f"{SMALL}: ours", f"{SMALL}: bare"))
    )


ROWS = (
    Row(
        "decoding and resizing 500x375, one thread, of bare libjpeg-turbo",
        "decode",
        lambda f: f[f"{SMALL}: ours"] / f[f"{SMALL}: bare libjpeg-turbo"],
        "{:.2f}",
        least=0.8,
    ),
    Row(
        "the same, of the fastest peer",
        "decode",
        lambda f: f[f"{SMALL}: ours"] / best_peer(f),
        "{:.2f}",
        least=1.0,
    ),
    Row(
        "12 megapixels, scaled decoding, of a full decode",
        "decode",
        lambda f: f[f"{LARGE}: ours, scaled_decoding"] / f[f"{LARGE}: ours"],
        "{:.1f}",
    ),
    Row("scaled decoding, mean difference of a pixel, of 255", "scaled", lambda f: f["pixels"], "{:.1f}"),
    Row("the complete job over the model alone, R50x1", "job", lambda f: f["ratio"], "{:.2f}"),
    Row("a device that never waits: busy", "device", lambda f: f["busy"], "{:.1%}", least=0.97),
    Row(
        "the job without the model, once it runs, of bare libjpeg-turbo on all cores",
        "device-free",
        lambda f: f["steady"] / f["bare"],
        "{:.2f}",
        least=0.75,
    ),
    Row(
        "the process with the model holds the interpreter's lock, microseconds per image",
        "device-free",
        lambda f: f["held"] or float("nan"),
        "{:.0f}",
        most=40,
    ),
    Row("the same with its start and end", "device-free", lambda f: f["job"] / f["bare"], "{:.2f}"),
    Row(
        "CPU time of the job without the model, over the sum of its stages",
        "stages",
        lambda f: f["job_cpu"] / f["sum_cpu"],
        "{:.2f}",
    ),
    Row(
        "the job without the model, over http, of bare libjpeg-turbo",
        "device-http",
        lambda f: f["steady"] / f["bare"],
        "{:.2f}",
    ),
    Row(
        "fed ahead: a device's total, over the larger of computing and copying",
        "overlap",
        lambda f: f["as on an H200, bfloat16, in order"],
        "{:.2f}",
        most=1.05,
    ),
    Row(
        "an object from a store that answers late: its rate, to that of one request at a time",
        "store_reading",
        lambda f: f["as the job does"] / f["one request"],
        "{:.1f}",
        least=2.5,
    ),
    Row(
        "shards committed to a store that answers late: their rate, to that of one at a time",
        "store_commits",
        lambda f: f["as the job does"] / f["one commit"],
        "{:.1f}",
        least=2.0,
    ),
    Row(
        "features written, microseconds per image",
        "encode",
        lambda f: f["encoded, framed and written"],
        "{:.1f}",
        most=40,
    ),
    Row(
        "peak memory from the least to the most images, change",
        "memory",
        lambda f: abs(f["most_images"] / f["least_images"] - 1),
        "{:.1%}",
        most=0.05,
    ),
    Row(
        "from the command to the first vectors without loading, seconds",
        "start",
        lambda f: f["first batch"] - f["loading of the model, of these"],
        "{:.1f}",
        most=12,
    ),
    Row(
        "recall of the index for near duplicates",
        "duplicates",
        lambda f: f["faiss: recall"],
        "{:.3f}",
        least=0.98,
    ),
    Row(
        "export to Parquet over pyarrow with the same table in memory and the same options",
        "export",
        lambda f: f["over pyarrow, the same table in memory"],
        "{:.2f}",
        least=0.7,
    ),
    Row(
        "the same, over pyarrow with its defaults",
        "export",
        lambda f: f["over pyarrow with its default options"],
        "{:.2f}",
    ),
    Row(
        "two workers over one on DirectRunner",
        "growth-engines",
        lambda f: f["DirectRunner, multi_threading, 2"] / f["DirectRunner, 1"],
        "{:.2f}",
    ),
    Row(
        "shards of 10 images over one shard of all, images per second",
        "growth-images",
        lambda f: f["10"] / f[max(f, key=int)],
        "{:.2f}",
    ),
    Row("planning, seconds for 1000 shards", "growth-shards", lambda f: f["plan_ms_per_shard"], "{:.2f}"),
    Row("dry run, predicted over real seconds", "estimate", lambda f: f["small"], "{:.2f}"),
    Row("load to first vector over reading and a batch", "load", lambda f: f["ratio"], "{:.1f}"),
    Row(
        "the network in bfloat16 over the authors' way",
        "model",
        lambda f: f["bfloat16"] / f["authors"],
        "{:.2f}",
    ),
    Row(
        "error of bfloat16, relative L2",
        "error",
        lambda f: f["all but network.FLOAT32_IN_BFLOAT16"],
        "{:.1e}",
    ),
)


def table(runs: Mapping[str, Figures]) -> str:
    """The summary of these runs, as a Markdown table."""
    lines = [row.line(runs) for row in ROWS if row.run in runs]
    return "\n".join(["| question | figure | aim | met |", "|---|---|---|---|", *lines])
