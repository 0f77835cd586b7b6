"""Real engines for the tests: their programs are installed once into a folder that outlives a run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import apache_beam

# Programs and jars of engines; CI may keep this folder between runs.
CACHE = Path(os.environ.get("BIT_FEATURES_TEST_CACHE", "~/.cache/bit-features-tests")).expanduser()


def require(program: str, packages: str) -> str:
    """The path of a program that tests of engines cannot do without."""
    found = shutil.which(program)
    assert found, f"{program} is not on PATH, and this test needs it: apt-get install {packages}"
    return found


def install(target: Path, command: list[str], **environment: str) -> Path:
    """Runs an installation whose last effect is `target`, unless it is there from an earlier run."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return target


def prism() -> Path:
    """Beam's Prism, built from its Go module at the version of the Python SDK."""
    version = f"v{apache_beam.__version__}"
    folder = CACHE / f"prism-{version}"
    module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@{version}"
    go = require("go", "golang")
    return install(folder / "prism", [go, "install", module], GOBIN=str(folder), GOFLAGS="-mod=mod")


def running(name: str) -> set[int]:
    """Ids of the processes whose program is called `name`."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                program = (folder / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            if os.path.basename(program.decode()) == name:
                found.add(int(folder.name))
    return found
