"""What ran and what failed, from the manifest, the receipts, the ledgers, and the report of the run if there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import progress
from pipeline.bottleneck import Bottleneck
from pipeline.flags import RequestError
from pipeline.look import remedies
from pipeline.outputs import Committed
from transforms.fetching.uris import public_uri
from transforms.storage import door

_EXAMPLES = 3  # per code
_LEDGERS = 3  # read for them, per code

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Failures:
    """The failures of one code."""

    code: str
    count: int
    meaning: str
    remedy: str
    examples: tuple[tuple[str, str], ...]  # (key, message)


def read_report(path: str, committed: Committed) -> Report | None:
    """The --report_file of a run; None without a path. Raises RequestError if it is not one of this output."""
    if not path:
        return None
    try:
        report = json.loads(door.read_bytes(path))
        status, inputs = report["status"], report.get("inputs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"--report_file={path} is not the report of a run ({type(error).__name__}: {error}): name the file that the job "
            "wrote with --report_file"
        ) from error
    total = sum(receipt.inputs for receipt in committed.receipts)
    if status not in ("done", "too_many_failures") or inputs != total:
        counted = f"{inputs} inputs" if inputs is not None else f"a run that ended as {status!r}"
        raise RequestError(
            f"--report_file={path} is about {counted}, {committed.layout.folder} about {total} inputs: name the report of the "
            "run that completed this output, or none"
        )
    return report


def facts(output: str, committed: Committed, report: Report | None) -> list[tuple[str, str]]:
    """What ran, as (name, value) pairs."""
    manifest = json.loads(committed.manifest)
    model, images = manifest["model"], manifest["preprocessing"]
    inputs = manifest["inputs"]
    names = [receipt.name for receipt in committed.receipts]
    out = [
        ("Output", public_uri(output)),
        ("Model", str(model["name"])),
        ("Precision", str(manifest["precision"])),
        ("Model input", f"{images['image_size']} by {images['image_size']} pixels"),
        ("Values per picture", ", ".join(f"{name} {size}" for name, size in manifest["dimensions"].items())),
        (
            "Inputs",
            f"{inputs:,} in {_shards(committed)}: {names[0]}{' … ' + names[-1] if len(names) > 1 else ''}",
        ),
        ("Features", f"{manifest['features']:,}, {_bytes(manifest['bytes'])}"),
        ("Failures", f"{manifest['failures']:,}{_percent(manifest['failures'], inputs)}"),
    ]
    if report:
        out += _of_run(report, inputs)
    versions = manifest["versions"]
    return [*out, ("Versions", ", ".join(f"{name} {_either(version)}" for name, version in versions.items()))]


def _of_run(report: Report, inputs: int) -> list[tuple[str, str]]:
    """Of the last run, which may have resumed an earlier one."""
    seconds = float(report["seconds"])
    before = report.get("shards_done_before", 0)
    counted = (report.get("counters") or {}).get("in-images")
    done = counted if counted is not None else None if before else inputs
    out = [("Time", f"{progress.duration(seconds)} with {report['runner']}")]
    if done and seconds:
        rate = progress.speed(done / seconds).removesuffix("/s")
        out.append(("Speed", f"{rate} images per second, from start to end"))
    verdict = report.get("verdict")
    if verdict:
        out.append(("Held back by", Bottleneck(**verdict).line().removeprefix("bottleneck: ")))
    else:
        out.append(("Held back by", "unknown: the run was too short to say"))
    if before:
        out.append(
            ("Earlier runs", f"{before:,} of {report['shards']:,} shards; the time is that of the last run")
        )
    return out


def notes(committed: Committed, report: Report | None, has_pictures: bool) -> list[str]:
    """What readers must know before they believe what they see; the first is a warning about untrained weights, if so."""
    manifest, out = json.loads(committed.manifest), []
    if manifest["untrained"]:
        out.append("The weights are untrained: similarities, map and duplicates have no meaning.")
    if manifest["shards_done"] < manifest["shards"]:
        out.append(
            f"The job is not finished: this page shows {manifest['shards_done']} of {manifest['shards']} shards."
        )
    if not has_pictures:
        out.append("Without pictures: --input says where the inputs of the job are now.")
    if report is None:
        out.append(
            "Time, speed and what held the run back are not kept with the output: run the job with --report_file=PATH, and make "
            "this page with the same flag."
        )
    return out


def failures(committed: Committed) -> list[Failures]:
    """The failures by code, the most frequent first, with examples from a few ledgers."""
    counts = json.loads(committed.manifest)["failures_by_code"]
    out = []
    for code in sorted(counts, key=lambda code: (-counts[code], code)):
        examples: list[tuple[str, str]] = []
        ledgers = [receipt.shard for receipt in committed.receipts if code in receipt.failures_by_code]
        for label in ledgers[:_LEDGERS]:
            lines = map(json.loads, door.read_bytes(committed.layout.failures(label)).splitlines())
            examples += [(line["key"], line["message"]) for line in lines if line["code"] == code]
            if len(examples) >= _EXAMPLES:
                break
        out.append(Failures(code, counts[code], *remedies.of(code), tuple(examples[:_EXAMPLES])))
    return out


def _shards(committed: Committed) -> str:
    count = len(committed.receipts)
    return f"{count:,} shard{'s' * (count != 1)}"


def _percent(part: int, whole: int) -> str:
    return f" ({part / whole:.2%})" if part and whole else ""


def _either(version: object) -> str:
    return " and ".join(map(str, version)) if isinstance(version, list) else str(version)


def _bytes(count: int) -> str:
    """3.4 MB."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
