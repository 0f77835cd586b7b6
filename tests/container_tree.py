"""The commands of deploy/Dockerfile in a fresh Debian tree, where there is no container engine: as root,

    python -m tests.container_tree FOLDER

FOLDER/tree becomes what the image would be. The base image is Debian's own Python of that version, in an environment at
/usr/local, where the official image has its own. Of the other stages, Beam's boot program is built from its Go module and the
jar by Maven; what no registry of packages has is left out, and said. Needs mmdebstrap, Go and Maven.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam

from tests import helpers

DOCKERFILE = helpers.REPO / "deploy" / "Dockerfile"
BOOT = f"github.com/apache/beam/sdks/v2/python/container@v{apache_beam.__version__}"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, each as its word and the rest, joined to one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, re.sub(r" {2,}", " ", rest.strip())


@dataclass
class Tree:
    """A root file system that the instructions of the last stage are carried out in."""

    folder: Path
    python: str  # '3.11'
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/root"})
    user: str = "0"
    directory: str = "/"

    def run(self, command: str) -> subprocess.CompletedProcess:
        """Runs a command of the image's shell, as its present user."""
        words = ["chroot", f"--userspec={self.user}:{self.user}", str(self.folder)]
        words += ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in self.environment.items())]
        words += ["/bin/sh", "-c", f"cd {shlex.quote(self.directory)} && {command}"]
        return subprocess.run(words, capture_output=True, text=True)

    def path(self, name: str) -> Path:
        """A path in the tree, seen from outside."""
        return self.folder / name.lstrip("/")


def carry_out(tree: Tree, stages: dict[str, Path]) -> bool:
    """Carries out the instructions of the last stage; returns whether all of them passed."""
    every = list(instructions(DOCKERFILE.read_text()))
    last = max(index for index, (word, _) in enumerate(every) if word == "FROM")
    passed = True
    for word, rest in every[last + 1 :]:
        began, error = time.monotonic(), ""
        if word == "ENV":
            tree.environment |= dict(part.partition("=")[::2] for part in shlex.split(rest))
        elif word == "ARG":
            tree.environment.setdefault(rest.partition("=")[0], shlex.split(rest.partition("=")[2])[0])
        elif word == "USER":
            tree.user = rest
        elif word == "WORKDIR":
            tree.directory = rest
            tree.path(rest).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            error = copy(tree, rest, stages)
        elif word == "RUN":
            done = tree.run(rest)
            error = f"exit code {done.returncode}: {done.stderr[-2000:]}" if done.returncode else ""
        elif word == "ENTRYPOINT":
            error = "" if tree.path(rest.strip('[]"')).exists() else "there is no such program"
        passed &= not error
        print(
            f"{'FAILED' if error else 'passed'} {time.monotonic() - began:6.1f} s  {word} {rest[:90]}",
            flush=True,
        )
        if error:
            print(f"       {error}", flush=True)
    return passed


def copy(tree: Tree, rest: str, stages: dict[str, Path]) -> str:
    """Copies what a COPY names; returns why it cannot be, or ''."""
    words = rest.split()
    source = helpers.REPO
    if words[0].startswith("--from="):
        stage = words.pop(0).removeprefix("--from=")
        if stage not in stages:
            return f"the stage {stage!r} is an image that no registry of packages has"
        source = stages[stage]
    *names, target = words
    for name in names:
        path, to = source / name.lstrip("/"), tree.path(target)
        if target.endswith("/") or len(names) > 1:
            to.mkdir(parents=True, exist_ok=True)
            to = to / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(path, to)
    return ""


def base(tree: Tree) -> None:
    """Makes the tree of the base image: Debian's Python in an environment at /usr/local."""
    packages = f"ca-certificates,python{tree.python}-venv"
    command = ["mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree.folder)]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).exists():
            shutil.copy(name, tree.path(name))
    done = tree.run(f"python{tree.python} -m venv /usr/local")
    assert done.returncode == 0, done.stderr


def stage_folders(folder: Path) -> dict[str, Path]:
    """What stands for the other stages, by name: a folder with the files that the image copies of each."""
    folders = {"beam": folder / "beam"}
    boot = folders["beam"] / "opt" / "apache" / "beam" / "boot"
    boot.parent.mkdir(parents=True, exist_ok=True)
    command = ["env", "GOFLAGS=-mod=mod", "CGO_ENABLED=0", f"GOBIN={folder / 'go'}", "go", "install", BOOT]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copy(folder / "go" / "container", boot)
    if "AS flink" in DOCKERFILE.read_text():
        from tests import engines

        folders["flink"] = folder / "flink"
        jar = folders["flink"] / "build" / "target" / "flink-job-server-1.jar"
        jar.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(engines.flink_job_server(), jar)
    return folders


def main() -> int:
    """Prints a line for each instruction; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)-slim-bookworm$", DOCKERFILE.read_text(), re.MULTILINE)
    tree = Tree(flags.folder / "tree", python)
    stages = stage_folders(flags.folder)
    if not tree.folder.exists():
        base(tree)
    return 0 if carry_out(tree, stages) else 1


if __name__ == "__main__":
    sys.exit(main())
