"""What `--setup_file=./setup.py` ships to remote workers: every module and data file, installable without the clone."""

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest

from tests import helpers

PACKAGES = ("pipeline", "transforms", "bit")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The archive as Beam makes it from setup.py."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=helpers.REPO, capture_output=True, check=True
    ).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (helpers.REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((helpers.REPO / name).read_bytes())
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = out.glob("*.tar.gz")
    return archive


def test_every_module_and_data_file_is_in_the_archive(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    expected = {
        str(path.relative_to(helpers.REPO))
        for package in PACKAGES
        for path in (helpers.REPO / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert expected <= names


@pytest.mark.parametrize("compiler", ["cc", "false"], ids=["with a compiler", "without"])
def test_a_worker_can_install_it_and_resize(sdist, tmp_path, compiler):
    venv.create(tmp_path / "venv", with_pip=False, system_site_packages=False)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        f"--target={site}",
    ]
    environment = {**os.environ, "CC": compiler}
    subprocess.run([*install, str(sdist)], check=True, capture_output=True, env=environment)
    assert all((site / package / "__init__.py").is_file() for package in PACKAGES)
    program = """
import sys
sys.path.append(sys.argv[1])  # NumPy's place, behind the package's own
import numpy as np
from transforms import native
from transforms.imaging import resize
out = np.empty((2, 2, 3), np.float32)
resize.resize(np.full((3, 5, 3), 7, np.uint8), out)
print(native.__file__, native.has_crc(), (out == 7).all())
"""
    command = [tmp_path / "venv" / "bin" / "python", "-c", program, str(Path(np.__file__).parents[1])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [
        str(site / "transforms" / "native.py"),
        str(compiler == "cc"),
        "True",
    ], done.stderr
