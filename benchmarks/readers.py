"""Do tools that ask for other versions of our packages open what the export writes? `python -m benchmarks.readers`.

Each has an environment of its own, which is installed from PyPI when it is first needed: autofaiss, with clip-retrieval's reader
(embedding-reader) and clip-retrieval's own `clip_index`; embedding-atlas, without PyTorch. The features are those of a small job
with the tiny network. Nothing is timed: the table says what each tool has read.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import environments, inputs, machine
from pipeline import export, main, read
from transforms.records import examples, tfrecord

SIZES = (60, 0, 40)  # images per shard: a reader must pass over one without features

READER = """
import sys
import numpy as np
from embedding_reader import EmbeddingReader

reader = EmbeddingReader(
    embeddings_folder=sys.argv[1] + "/img_emb",
    metadata_folder=sys.argv[1] + "/metadata",
    meta_columns=["key"],
    file_format="parquet_npy",
)
rows, keys = [], []
for vectors, metadata in reader(batch_size=32, start=0, end=reader.count, show_progress=False):
    rows.append(vectors)
    keys += metadata["key"].tolist()
np.savez(sys.argv[2], rows=np.concatenate(rows), keys=keys)
"""

INDEX = """
import importlib.util, sys
import faiss, numpy as np

spec = importlib.util.spec_from_file_location("clip_index", sys.argv[3])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.clip_index(sys.argv[1], sys.argv[2], max_index_memory_usage="1G", current_memory_available="2G", nb_cores=1)
index = faiss.read_index(sys.argv[2] + "/image.index")
print(index.ntotal, index.d)
"""


def features(folder: Path) -> Path:
    """The output of a small job."""
    seed = 0
    for index, size in enumerate(SIZES):
        records = []
        for _ in range(size):
            example = examples.Example()
            picture = inputs.jpeg(seed, 64, 48)
            example.features.MergeFromString(
                examples.from_columns({"image/encoded": picture, "label": seed % 5})
            )
            records.append(tfrecord.frame(example.SerializeToString()))
            seed += 1
        (folder / f"in-{index}.tfrecord").write_bytes(b"".join(records))
    flags = [
        f"--input={folder}/in-*.tfrecord",
        "--pass_through=label",
        "--model=untrained/tiny",
        "--image_size=32",
    ]
    if code := main.main([*flags, f"--output={folder}/features"]):
        raise RuntimeError(f"the job ended with {code}")
    return folder / "features"


def run(python: str, *arguments: str) -> str:
    """Runs a peer's interpreter; returns what it printed. Raises RuntimeError with its last words."""
    done = subprocess.run([python, *arguments], capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split())[-400:])
    return done.stdout


def with_reader(python: str, folder: Path, output: Path) -> str:
    """clip-retrieval's reader returns all vectors and keys, in order."""
    run(python, "-c", READER, str(folder / "npy"), str(folder / "read.npz"))
    with np.load(folder / "read.npz") as got:
        is_same = np.array_equal(got["rows"], read(str(output)).to_numpy())
        is_same = is_same and got["keys"].tolist() == read(str(output)).keys()
        return f"{len(got['rows'])} vectors and keys, {'equal and in order' if is_same else 'NOT those of the job'}"


def with_clip_index(python: str, folder: Path, output: Path) -> str:
    """`clip-retrieval index`, which calls autofaiss, makes an index of all vectors."""
    other = environments.python_of("clip-retrieval")
    if other is None:
        return "clip-retrieval is not installed"
    (module,) = (Path(other).parents[1] / "lib").glob("python*/site-packages/clip_retrieval/clip_index.py")
    count, dimensions = run(
        python, "-c", INDEX, str(folder / "npy"), str(folder / "index"), str(module)
    ).split()[-2:]
    return f"an index of {count} vectors of {dimensions}"


def with_atlas(python: str, folder: Path, output: Path) -> str:
    """embedding-atlas takes the vectors as they are, and writes its application."""
    command = str(Path(python).with_name("embedding-atlas"))
    files = sorted(map(str, (folder / "parquet").glob("*.parquet")))
    site = folder / "atlas"
    done = subprocess.run(
        [command, *files, "--vector", "embedding", "--text", "key", "--export-application", str(site)],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if done.returncode or not (site.exists() or site.with_suffix(".zip").exists()):
        raise RuntimeError(" ".join((done.stdout + done.stderr).split())[-400:])
    written = [path for path in site.rglob("*") if path.is_file()]
    return f"an application of {len(written)} files"


TASKS: dict[str, tuple[str, Callable[[str, Path, Path], str]]] = {
    "clip-retrieval's reader (embedding-reader 1.8.1), npy": ("autofaiss", with_reader),
    "clip-retrieval 2.45.0 index, by autofaiss 2.18.0, npy": ("autofaiss", with_clip_index),
    "embedding-atlas 0.26.0, Parquet": ("embedding-atlas", with_atlas),
}


def main_() -> int:
    """Prints the table; returns the number of tools that failed."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output = features(folder)
        for format in ("parquet", "npy"):
            export.main([str(output), f"--to={folder}/{format}", f"--format={format}"])
        print(f"{machine.describe()}\n\n| tool | what it has read |\n|---|---|")
        for title, (peer, task) in TASKS.items():
            python = environments.python_of(peer)
            try:
                result = task(python, folder, output) if python else "could not be installed"
            except RuntimeError as error:
                result, failed = f"failed: {error}", failed + 1
            print(f"| {title} | {result} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main_())
