"""Every snippet of docs/using.md runs as it is printed, one after another, and gives the features of the job."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import helpers
from tests.pages import blocks

PAGE = helpers.REPO / "docs" / "using.md"
SIZES = (70, 0, 40, 55)
FIRST = "in-00000-of-00004.tfrecord#0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the features of a job, and what the commands of the page leave there."""
    folder = tmp_path_factory.mktemp("using")
    pattern = helpers.write_shards(folder / "in", SIZES)
    helpers.job(f"--input={pattern}", output=folder / "local" / "features")
    for block in blocks(PAGE, "bash"):
        assert run(folder, "bash", "-euo", "pipefail", "-c", block) == ""
    return folder


@pytest.fixture(scope="module")
def vectors(folder):
    return np.array([record["embedding"] for record in helpers.read_all(folder / "local" / "features")])


def run(folder, *command):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(helpers.REPO),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def snippet(folder, word):
    """What the program of the page that holds `word` prints, line by line."""
    (program,) = [block for block in blocks(PAGE, "python") if word in block]
    return run(folder, sys.executable, "-c", program.replace("6144", "256")).splitlines()


def nearest(vectors):
    """The rows whose vectors are nearest to the first one, by cosine."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.argsort(-(unit @ unit[0]), kind="stable")[:3]


def keys():
    return [f"in-{s:05d}-of-00004.tfrecord#{i}" for s, size in enumerate(SIZES) for i in range(size)]


def test_every_program_has_a_test():
    source = Path(__file__).read_text()
    words = re.findall(r'snippet\(folder, "([^"]+)"', source)
    assert all(sum(word in block for word in words) == 1 for block in blocks(PAGE, "python"))


def test_reading(folder):
    *batches, last = snippet(folder, "from pipeline import read")
    assert [int(line.split()[0]) for line in batches] == [70, 40, 55]
    assert last == f"(165, 256) {FIRST}"


def test_pandas(folder):
    assert snippet(folder, "import pandas") == [f"{FIRST} (165, 256) float32"]


def test_polars(folder):
    assert snippet(folder, "import polars") == [f"{FIRST} Array(Float32, shape=(256,)) (165, 256)"]


def test_duckdb(folder, vectors):
    (line,) = snippet(folder, "import duckdb")
    found = ast.literal_eval(line)
    assert [key for key, _ in found] == [keys()[row] for row in nearest(vectors)]
    assert found[0][1] == pytest.approx(1)


def test_datasets(folder):
    assert snippet(folder, "from datasets import")[-1] == f"{FIRST} (256,) 256"


def test_lancedb(folder, vectors):
    assert ast.literal_eval(snippet(folder, "import lancedb")[-1]) == [
        keys()[row] for row in nearest(vectors)
    ]


def test_numpy(folder):
    assert snippet(folder, "np.load") == [
        f"local/npy/img_emb/img_emb_{shard:05d}.npy ({size}, 256) float16"
        for shard, size in enumerate(SIZES)
        if size
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_of_a_file_opens_in_each_tool(folder, vectors, tmp_path, dtype):
    """The values themselves, in both types, as each tool returns them."""
    program = """
import sys
import numpy as np
import pandas, polars, duckdb, datasets, lancedb, pyarrow.dataset
folder, out = sys.argv[1:]
glob = folder + "/*.parquet"
arrow = pyarrow.dataset.dataset(folder)
table = lancedb.connect(out + "/lance").create_table("t", arrow.to_batches(), arrow.schema)
hugging = datasets.load_dataset("parquet", data_files=glob, split="train", cache_dir=out + "/hf").with_format("numpy")
got = {
    "pandas": np.stack(pandas.read_parquet(folder)["embedding"]),
    "polars": polars.read_parquet(folder)["embedding"].to_numpy(),
    "duckdb": np.array(duckdb.sql(f"SELECT embedding FROM '{glob}'").fetchall())[:, 0],
    "datasets": np.stack(hugging["embedding"][:]),
    "lancedb": np.array(table.to_arrow()["embedding"].to_pylist()),
}
np.savez(out + "/got.npz", **got)
"""
    to = tmp_path / "parquet"
    run(
        folder,
        sys.executable,
        *("-m", "pipeline.export", "local/features", f"--to={to}", "--format=parquet", f"--dtype={dtype}"),
    )
    run(folder, sys.executable, "-c", program, str(to), str(tmp_path / "others"))
    with np.load(tmp_path / "others" / "got.npz") as got:
        assert set(got) == {"pandas", "polars", "duckdb", "datasets", "lancedb"}
        for name, values in got.items():
            assert np.array_equal(np.float32(values), vectors.astype(dtype).astype(np.float32)), name
