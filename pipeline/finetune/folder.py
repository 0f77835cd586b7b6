"""The output folder of a training run: whose it is, and what it keeps for going on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bit import tuned
from bit.errors import UnusableModel
from pipeline.finetune.checkpoints import replace_file
from pipeline.finetune.examples import Examples, Failed, Input
from pipeline.finetune.request import Request
from pipeline.flags import RequestError
from transforms.fetching.uris import public_uri

REQUEST, EXAMPLES, FAILURES, REPORT = "request.json", "examples.npz", "failures.jsonl", "report.json"


def identity(request: Request, weights: str, sources: Mapping[str, Input]) -> dict[str, Any]:
    """Everything that determines the trained weights, as JSON, without secrets."""
    values = asdict(request)
    unimportant = (
        "output",
        "model",
        "read",
        "decode_processes",
        "decode_timeout",
        "evaluate_every",
        "checkpoint_minutes",
        "offline",
    )
    for name in (*unimportant, "max_failure_rate", "cache"):
        del values[name]
    for name, texts in (("input", values.pop("input_texts")), ("validation", values["validation"])):
        values[name] = [",".join(map(public_uri, text.split(","))) for text in texts]
    read = {name: getattr(request.read, name) for name in ("image_feature", "key_feature", "uri_column")}
    values |= {"model": public_uri(request.model.name), "weights": weights, **read}
    if request.classes:
        values["classes"] = read_names(request.classes)
    for name, source in sources.items():
        values[f"files of --{name}"] = [
            [shard.name, _content(shard.source.identity())] for shard in source.shards
        ]
    return json.loads(json.dumps(values))


def _content(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("modified", "crc32c")}


def read_names(path: str) -> list[str]:
    """The lines of a file of class names. Raises RequestError."""
    try:
        return list(tuned.parse_names(Path(path).read_bytes(), path))
    except OSError as error:
        raise RequestError(f"--classes={path} cannot be read: {error}") from error
    except UnusableModel as error:
        raise RequestError(f"--classes={error}") from error


def claim(folder: Path, now: dict[str, Any]) -> None:
    """Makes the folder that of this request. Raises RequestError if it is another's, and names what differs."""
    path = folder / REQUEST
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        differences = [
            f"{name} was {_shown(before.get(name))}, now {_shown(now.get(name))}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if differences:
            raise RequestError(
                f"--output={folder} holds a run of another request: {'; '.join(differences)}. Use another --output"
            )
        return
    others = sorted(entry.name for entry in folder.iterdir())
    if others:
        raise RequestError(
            f"--output={folder} holds {others[0]!r} and no run of this command: use a new folder"
        )
    write_json(path, now)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_done(folder: Path) -> bool:
    """Whether the folder holds a finished run."""
    return (folder / REPORT).exists()


def report(folder: Path) -> dict[str, Any]:
    """What `report.json` of a finished run holds. Raises ValueError if it is damaged."""
    return json.loads((folder / REPORT).read_bytes())


def write_json(path: Path, value: object) -> None:
    """Writes JSON that is complete or absent."""
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
    replace_file(path, lambda stream: stream.write(f"{text}\n".encode()))


def save_examples(path: Path, parts: Mapping[str, Examples], about: Mapping[str, Any]) -> None:
    """Keeps what the pass over the input found, so that a run that goes on needs no other."""
    arrays = {f"{part}/{name}": value for part, one in parts.items() for name, value in vars(one).items()}
    replace_file(
        path, lambda stream: np.savez_compressed(stream, about=np.array(json.dumps(about)), **arrays)
    )


def load_examples(path: Path) -> tuple[dict[str, Examples], dict[str, Any]]:
    """What `save_examples` kept."""
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name in stored.files:
            part, _, field = name.partition("/")
            if field:
                parts.setdefault(part, {})[field] = stored[name]
    return {part: Examples(**fields) for part, fields in parts.items()}, about


def write_failures(path: Path, failed: Sequence[Failed]) -> None:
    """One JSON line for each, in order."""
    lines = "".join(json.dumps(one._asdict(), ensure_ascii=False) + "\n" for one in sorted(set(failed)))
    replace_file(path, lambda stream: stream.write(lines.encode("utf-8", "backslashreplace")))


def read_failures(path: Path) -> list[Failed]:
    """What `write_failures` wrote; [] if there is no file."""
    if not path.exists():
        return []
    return [Failed(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
