"""deploy/Dockerfile without a container engine: linted, its sources there, its pins those of the lock files."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import container_tree, helpers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCKERFILE = helpers.REPO / "deploy" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
IMAGE = {
    "python_version": "3.11",
    "python_full_version": "3.11.0",
    "sys_platform": "linux",
    "platform_python_implementation": "CPython",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
}


def pins(path: Path) -> dict[str, str]:
    """The exact version of each package that a lock file has for the image's platform; each with a hash."""
    out = {}
    for entry in re.split(r"\n(?=\S)", path.read_text()):
        if entry.startswith("#"):
            continue
        requirement = Requirement(entry.split("\\")[0].strip())
        assert "--hash=sha256:" in entry, requirement
        if requirement.marker is None or requirement.marker.evaluate(IMAGE):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            out[canonicalize_name(requirement.name)] = pin.version
    return out


@pytest.fixture(scope="module")
def lock():
    return pins(helpers.REPO / "deploy" / "requirements-gpu.txt")


def test_the_linter_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_has_the_tested_versions_and_cuda_beside_them(lock):
    tested = pins(helpers.REPO / "requirements.txt")
    assert {name: lock.get(name) for name in tested} == tested
    assert {name for name in set(lock) - set(tested) if not name.startswith("nvidia-")} == set()


def test_cuda_is_what_this_tensorflow_asks_for(lock):
    requirements = [Requirement(line) for line in metadata.requires("tensorflow") or ()]
    cuda = [r for r in requirements if r.marker and r.marker.evaluate({**IMAGE, "extra": "and-cuda"})]
    cuda = [r for r in cuda if not r.marker.evaluate({**IMAGE, "extra": ""})]
    assert len(cuda) >= 10
    for requirement in cuda:
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), requirement


def test_the_lock_satisfies_the_project(lock):
    project = tomllib.loads((helpers.REPO / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["gpu"]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(IMAGE):
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), line
    assert SpecifierSet(project["requires-python"]).contains(IMAGE["python_version"])


def test_beam_and_python_are_the_same_in_every_stage(lock):
    python = IMAGE["python_version"]
    images = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
    beam, flex, _, base = images
    assert beam == f"apache/beam_python{python}_sdk:{lock['apache-beam']}"
    assert f"/python{python.replace('.', '')}-template-launcher-base:" in flex
    assert base.startswith(f"python:{python}-slim")
    assert f"/python{python}/site-packages/pipeline/main.py" in TEXT
    assert (helpers.REPO / "pipeline" / "main.py").is_file()


def test_what_is_copied_is_there_and_reaches_the_build():
    ignored = (helpers.REPO / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    packages = {path.parent.name for path in helpers.REPO.glob("*/__init__.py")} - {
        "tests",
        "samples",
        "benchmarks",
    }
    assert packages <= set(copied)
    for source in copied:
        assert (helpers.REPO / source).exists()
        assert f"!{source}" in ignored


def test_the_image_runs_as_nobody_in_particular():
    assert re.findall(r"^USER (\d+)$", TEXT, re.MULTILINE) == ["10001"]
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in TEXT


def test_the_instructions_are_read_as_an_engine_reads_them():
    text = "# c\nFROM a AS b\nRUN one \\\n    && two\n\n# c\nENV A=1 \\\n  B='2 3'\n"
    assert list(container_tree.instructions(text)) == [
        ("FROM", "a AS b"),
        ("RUN", "one && two"),
        ("ENV", "A=1 B='2 3'"),
    ]


def test_every_command_of_the_image_is_one_of_its_shell():
    """What `python -m tests.container_tree` runs in a fresh tree; here only its syntax."""
    every = list(container_tree.instructions(TEXT))
    assert {word for word, _ in every} <= {
        *("FROM", "ENV", "ARG", "USER", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"),
    }
    commands = [rest for word, rest in every if word == "RUN"]
    assert len(commands) >= 4
    for command in commands:
        done = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_tree_gets_what_an_image_would(tmp_path):
    tree = container_tree.Tree(tmp_path / "tree", "3.11")
    assert container_tree.copy(tree, "README.md LICENSE /opt/source/", {}) == ""
    assert container_tree.copy(tree, "deploy/requirements-gpu.txt /opt/lock/", {}) == ""
    assert container_tree.copy(tree, "bit /opt/source/bit", {}) == ""
    for name in ("opt/source/README.md", "opt/lock/requirements-gpu.txt", "opt/source/bit/models.py"):
        assert (tree.folder / name).is_file()
    assert "is an image that no registry" in container_tree.copy(tree, "--from=flex /opt/a /opt/a", {})
