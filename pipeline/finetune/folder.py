"""The output folder of a training run: whose it is, and what it keeps for going on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bit import tuned
from bit.errors import UnusableModel
from pipeline.console import say
from pipeline.finetune.checkpoints import DAMAGED, replace_file
from pipeline.finetune.examples import Examples, Input
from pipeline.finetune.request import Request
from pipeline.flags import RequestError
from transforms.fetching.uris import public_uri

REQUEST, EXAMPLES, FAILURES, REPORT = "request.json", "examples.npz", "failures.jsonl", "report.json"
MODEL, WEIGHTS, CHECKPOINTS = tuned.FINETUNED, "weights.npz", "checkpoints"
LISTINGS = {"input": "inputs.txt", "validation": "inputs-validation.txt"}
_LOCK = ".lock"
# What a run writes before it is certain that its request is not refused.
_PREPARED = frozenset((_LOCK, EXAMPLES, FAILURES, *LISTINGS.values()))


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
    values["label_type"] = request.read.kinds_by_name.get(request.label_feature, "")
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


@contextlib.contextmanager
def claimed(folder: Path, now: Mapping[str, Any]) -> Iterator[None]:
    """A context in which the folder, made if necessary, is that of this process alone; `begin` then makes it that of the request.

    Raises RequestError if the folder cannot be had: it is another request's, and then names what differs; it holds other
    files; or another process works in it. What is refused later leaves no trace of itself: the corrected command may
    take the same folder."""
    _check(folder, now)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise RequestError(f"--output={folder} is not a folder, nor can it be made: {error}") from error
    with lock:
        _lock(folder, lock)
        _check(folder, now)  # another process may have begun meanwhile
        _tidy(folder)
        try:
            yield
        except RequestError:
            if not (folder / REQUEST).exists():
                for name in _PREPARED:
                    (folder / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    if is_new:
                        folder.rmdir()
            raise


def _tidy(folder: Path) -> None:
    """Removes what a killed run left: large files that were half written, and checkpoints where it had just ended."""
    for name in (EXAMPLES, WEIGHTS):
        (folder / f"{name}.partial").unlink(missing_ok=True)
    shutil.rmtree(folder / f"{MODEL}.partial", ignore_errors=True)
    if is_done(folder):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def begin(folder: Path, now: Mapping[str, Any]) -> None:
    """Makes a claimed folder that of this request, if it is not so already."""
    if not (folder / REQUEST).exists():
        write_json(folder / REQUEST, now)


def _lock(folder: Path, lock: TextIO) -> None:
    """Locks the folder for this process, however that ends. Raises RequestError if another one has."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read(200).strip()
        raise RequestError(
            f"--output={folder} is in use by another run of this command{f' ({holder})' if holder else ''}: wait for its end, "
            "or stop it; the same command then goes on"
        ) from error
    except OSError as error:
        say(
            f"warning: --output={folder} cannot be locked ({error}): make sure that no other run uses it meanwhile"
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _check(folder: Path, now: Mapping[str, Any]) -> None:
    """Raises RequestError if the folder is another request's, or holds what no run of this command has written."""
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
    elif folder.is_dir():
        entries = sorted(entry.name.removesuffix(".partial") for entry in folder.iterdir())
        others = entries if _LOCK not in entries else [name for name in entries if name not in _PREPARED]
        others = [name for name in others if name != REQUEST]  # partial
        if others:
            raise RequestError(
                f"--output={folder} holds {others[0]!r} and no run of this command: use a new folder"
            )


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


def save_examples(path: Path, parts: Mapping[str, Examples], about: Mapping[str, Any], request: str) -> None:
    """Keeps what the pass over the input found for a request, so that a run that goes on needs no other."""
    arrays = {f"{part}/{name}": value for part, one in parts.items() for name, value in vars(one).items()}
    text = np.array(json.dumps({"request": request, **about}))
    replace_file(path, lambda stream: np.savez_compressed(stream, about=text, **arrays))


def load_examples(path: Path, request: str) -> tuple[dict[str, Examples], dict[str, Any]] | None:
    """What `save_examples` kept for this request; None if there is no such file, or only a damaged one."""
    try:
        with path.open("rb") as stream, np.load(stream) as stored:  # which leaves what is damaged open
            about = json.loads(str(stored["about"]))
            if about["request"] != request:
                return None
            parts: dict[str, dict[str, np.ndarray]] = {}
            for name in stored.files:
                part, _, field = name.partition("/")
                if field:
                    parts.setdefault(part, {})[field] = stored[name]
    except FileNotFoundError:
        return None
    except (*DAMAGED, KeyError) as error:
        say(f"{path} is damaged ({error}): the input is passed over again")
        return None
    return {part: Examples(**fields) for part, fields in parts.items()}, about
