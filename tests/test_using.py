"""Every snippet of docs/using.md runs as it is printed, one after another, and gives the features of the job."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import helpers
from tests.pages import blocks
from transforms.records import examples, tfrecord

pytestmark = pytest.mark.xdist_group("using")  # so that one process makes the features

PAGE = helpers.REPO / "docs" / "using.md"
SIZES = (70, 0, 40, 55)
CLASSES = 5
FIRST = "in-00000-of-00004.tfrecord#0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the features of a job, and what the commands of the page leave there."""
    folder = tmp_path_factory.mktemp("using")
    seeds = iter(range(sum(SIZES)))
    for index, size in enumerate(SIZES):
        records = [labelled(next(seeds)) for _ in range(size)]
        helpers.write_tfrecord(folder / "in" / f"in-{index:05d}-of-00004.tfrecord", records)
    flags = (f"--input={folder}/in/*", "--pass_through=image/class/label")
    helpers.job(*flags, output=folder / "local" / "features")
    for block in blocks(PAGE, "bash"):
        assert run(folder, "bash", "-euo", "pipefail", "-c", block) == ""
    return folder


def labelled(seed):
    """A record of one of five classes: a picture of the class, and in it a third of one of its own; every 20th is one again."""
    own = seed - CLASSES if seed % 20 == 7 else seed
    picture = helpers.picture(seed % CLASSES) * (2 / 3) + helpers.picture(1000 + own) / 3
    out = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(out, "PNG")
    return helpers.example({"image/encoded": out.getvalue(), "image/class/label": seed % CLASSES})


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
    *batches, last = snippet(folder, "for batch in features:")
    assert [int(line.split()[0]) for line in batches] == [70, 40, 55]
    assert last == f"(165, 256) {FIRST}"


def test_a_picture_of_ones_own(folder, vectors):
    with (folder / "in" / FIRST.partition("#")[0]).open("rb") as stream:
        record = examples.parse(next(tfrecord.read(stream)).data)
    (picture,) = record.features.feature["image/encoded"].bytes_list.value
    (folder / "query.jpg").write_bytes(picture)
    (line,) = snippet(folder, "import extract, read")
    assert ast.literal_eval(line) == [keys()[row] for row in nearest(vectors)]


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


def test_a_classifier(folder):
    (line,) = snippet(folder, "sklearn.linear_model")
    counts, accuracy = line.split(": ")
    assert counts == "132 to train, accuracy on 33 others"
    assert float(accuracy) > 0.9  # the classes differ for any network; chance is 0.2


def test_a_few_labels_per_class(folder):
    (command,) = [block for block in blocks(PAGE, "bash") if "pipeline.fewshot" in block]
    figures = json.loads(run(folder, "bash", "-euo", "pipefail", "-c", f"{command.strip()} --json"))
    assert figures["classes"] == CLASSES
    assert figures["to_learn_from"] + figures["classified"] == sum(SIZES)
    assert 20 < figures["classified"] < 50  # about a fifth
    assert [row["shots"] for row in figures["results"]] == [1, 5, 10]
    assert figures["results"][-1]["mean"] > 0.7  # the classes differ for any network; chance is 0.2


def test_nearest_neighbours(folder, vectors):
    expected = [keys()[row] for row in nearest(vectors)]
    assert ast.literal_eval(snippet(folder, "NearestNeighbors")[-1]) == expected
    assert ast.literal_eval(snippet(folder, "import faiss")[-1]) == expected


def test_duplicates(folder):
    (line,) = snippet(folder, "duplicates.drop.jsonl")
    rows = pq.read_table(folder / "local" / "duplicates.parquet").to_pylist()
    dropped = [row["key"] for row in rows if not row["is_representative"]]
    assert dropped == [keys()[row] for row in range(7, 165, 20)]
    listed = (folder / "local" / "duplicates.drop.jsonl").read_text().splitlines()
    assert sorted(map(json.loads, listed)) == sorted(dropped)
    assert line == f"165 {len(dropped)} {165 - len(dropped)}"


def test_what_smaller_forms_lose_is_measured(folder):
    *_, halves, pca = run(folder, sys.executable, "-m", "samples.storage", "local/features").splitlines()
    name, size, cosine, kept = (cell.strip() for cell in halves.strip("|").split("|"))
    assert (name, size) == ("float16", "512")
    assert cosine.startswith("1.000000 (1.0000")
    assert float(kept.strip("%")) > 98
    name, size, cosine, kept = (cell.strip() for cell in pca.strip("|").split("|"))
    assert (name, size) == ("PCA, 64 float32", "256")
    assert 0.9 < float(cosine.split()[0]) < 1
    assert 30 < float(kept.strip("%")) < 100


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
