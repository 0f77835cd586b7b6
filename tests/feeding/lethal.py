"""Images that end the process that decodes them, and a job over them, for any engine."""

import os
from pathlib import Path

from tests import helpers

# For processes in which the format of tests/killer is known.
ENVIRONMENT = {"PYTHONPATH": f"{helpers.REPO / 'tests' / 'killer'}{os.pathsep}{helpers.REPO}"}


def write_input(folder: Path, lethal: dict[int, bytes], size: int = 10, shards: int = 3) -> list[str]:
    """Shards of good pictures, except for the lethal ones, by number over all shards; returns the job's flags."""
    for shard in range(shards):
        numbers = range(shard * size, (shard + 1) * size)
        examples = [helpers.example({"image/encoded": lethal.get(n) or helpers.encoded(n)}) for n in numbers]
        helpers.write_tfrecord(folder / f"in-{shard}.tfrecord", examples)
    return [*helpers.TINY, f"--input={folder}", "--batch_size=4", "--decode_processes=2"]


def costs_itself(folder: Path, *engine: str, **environment: str) -> None:
    """Checks that a lethal image in a job on an engine is one line of the ledger, and changes no other image's bytes."""
    flags = write_input(folder / "lethal", {12: b"LETHALwild pointer"}, 8)
    environment = {**ENVIRONMENT, **environment}
    done = helpers.job_process(*flags, *engine, f"--output={folder / 'out'}", env=environment, expect=0)
    assert "do not start" not in done.stderr
    (line,) = helpers.read_ledger(folder / "out")
    assert (line["key"], line["code"]) == ("in-1.tfrecord#4", "decoder_crash")
    assert "SIGSEGV" in line["message"]
    harmless = write_input(folder / "harmless", {12: b"no image"}, 8)
    helpers.job(*harmless[2:], output=folder / "expected")

    def features(output: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / output).glob("features-*")}

    assert len(features("out")) == 3
    assert features("out") == features("expected")
