"""`bit-features COMMAND`: the project's commands under one name. Each is a module that `python -m` runs in the same way."""

from __future__ import annotations

import importlib.metadata
import runpy
import sys
from collections.abc import Sequence

from bit import command

# Command -> (module, arguments that it implies, what it does).
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "run": ("pipeline.main", (), "extract the features of images, or resume a run"),
    "dry-run": ("pipeline.main", ("--dry_run",), "sample a few images, and estimate time and size of a run"),
    "verify": ("pipeline.verify", (), "check an output"),
    "export": ("pipeline.export", (), "write an output's features as Parquet, npy or for TensorBoard"),
    "evaluate": ("pipeline.evaluate", (), "compare an output's classes with labels"),
    "fewshot": (
        "pipeline.fewshot",
        (),
        "judge an output's features by classifiers of a few images per class",
    ),
    "finetune": ("pipeline.finetune", (), "fine-tune a model on labelled images"),
    "look": ("pipeline.look", (), "write a page that shows an output"),
    "duplicates": ("pipeline.duplicates", (), "find pictures that are the same, or nearly so"),
    "models": ("bit.models", (), "list the models by name"),
    "download": ("bit.download", (), "download a model's weights"),
    "export-model": ("bit.export", (), "write a model as a TF-Hub SavedModel"),
}


def usage() -> str:
    """The commands, one per line."""
    lines = [f"  {name:14}{text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bit-features COMMAND ...",
            "",
            *lines,
            "",
            "bit-features COMMAND --help says how to use one.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, which ends the process; returns the exit code where there is none to run: 0 for help, else 2."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(importlib.metadata.version("bit-features"))
        return 0
    if name not in COMMANDS:
        print(f"error: no command {name!r}\n\n{usage()}" if name else usage(), file=sys.stderr)
        return 2
    module, implied, _ = COMMANDS[name]
    command.begin()
    sys.argv = [f"bit-features {name}", *implied, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
