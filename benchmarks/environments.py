"""Virtual environments for peers, below local/benchmarks: their packages and ours need different versions.

Each is created from PyPI when a benchmark first needs it, and kept. $BIT_BENCHMARK_ENVIRONMENTS names another folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

# The packages of each peer, in the versions measured. PyTorch's include CUDA libraries: about 5 GB.
PEERS = {
    "torch": ("torch==2.15.0", "torchvision==0.29.2", "timm==1.0.31", "pillow==12.3.0"),
    "jax": ("jax==0.10.2",),
    "img2dataset": ("img2dataset==1.47.0",),
    # Only its reader is used, which runs in torch's environment.
    "clip-retrieval": ("--no-deps", "clip-retrieval==2.45.0"),
    # autofaiss asks for NumPy 1, and PyArrow's later versions for NumPy 2, which pip does not see.
    "autofaiss": ("autofaiss==2.18.0", "embedding-reader==1.8.1", "fire", "pyarrow==19.0.1"),
    "embedding-atlas": ("embedding-atlas==0.26.0",),
}
# Of what a peer asks for, what it does not need for the task, by gigabytes: embedding-atlas computes no vectors here.
WITHOUT = {"embedding-atlas": "torch"}
REPOSITORY = Path(__file__).resolve().parents[1]


def python_of(peer: str, install: bool = True) -> str | None:
    """The interpreter of a peer's environment, created if missing; None, with a message, if that fails.

    Without `install`, None if it is missing.
    """
    folder = Path(os.environ.get("BIT_BENCHMARK_ENVIRONMENTS") or REPOSITORY / "local" / "benchmarks") / peer
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join(PEERS[peer])
    if done.exists() and done.read_text() == wanted:
        return str(python)
    if not install:
        return None
    print(f"installing {', '.join(PEERS[peer])} into {folder}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    install_with = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*install_with, *PEERS[peer]]
    if left_out := WITHOUT.get(peer):  # which pip cannot do
        (folder / "without.txt").write_text(f"{left_out}; python_version < '3'\n")
        uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
        command = [*uv, "--overrides", str(folder / "without.txt"), *PEERS[peer]]
        subprocess.run([*install_with, "uv"], stdout=sys.stderr, check=False)
    pip = subprocess.run(command, stdout=sys.stderr, check=False)
    if pip.returncode:
        print(f"{peer} could not be installed (pip ended with {pip.returncode}): left out", file=sys.stderr)
        return None
    done.write_text(wanted)
    return str(python)
