"""Made the folders beside this file, with version 0.1.0 of the job: `python make.py` in an empty folder, from its root.

Inputs are named relative to that folder, so that the outputs can be resumed wherever it lies.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests import helpers

JOB = (sys.executable, "-m", "pipeline.main", "--model=untrained/tiny", "--image_size=32", "--batch_size=4")
RUNS = {
    "records": ("--input=records/", "--pass_through=image/class/label"),
    "split": ("--input=records/*.tfrecord", "--split_bytes=3KiB"),
    "blind": ("--input=records/*.tfrecord", "--split_bytes=3KiB", "--key_feature=image/filename"),
    "photos": ("--input=photos", "--images_per_shard=3"),
    "text": ("--input=list.txt", "--images_per_shard=3"),
    "csv": ("--input=list.csv", "--images_per_shard=3", "--pass_through=label"),
    "jsonl": ("--input=list.jsonl", "--images_per_shard=3", "--key_feature=label"),
    "parquet": ("--input=list.parquet", "--images_per_shard=3", "--pass_through=label"),
}


def inputs() -> None:
    for index, suffix in enumerate(("", "", ".gz")):
        records = [helpers.image_example(10 * index + seed) for seed in range(5)]
        if index == 1:
            records[3] = helpers.image_example(3, **{"image/encoded": b"no picture"})
        helpers.write_tfrecord(Path(f"records/in-{index}.tfrecord{suffix}"), records)
    damaged = bytearray(Path("records/in-0.tfrecord").read_bytes())
    damaged[100] ^= 1
    Path("records/in-0.tfrecord").write_bytes(damaged)
    names = [f"photos/{'within/' * (seed % 2)}{seed}.jpg" for seed in range(6)]
    for seed, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(helpers.encoded(seed) if seed != 4 else b"\xff\xd8 no picture")
    names.append("photos/missing.jpg")
    Path("list.txt").write_text("".join(f"{name}\n" for name in names))
    Path("list.csv").write_text("uri,label\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)))
    rows = "".join(f'{{"uri": "{name}", "label": {n}}}\n' for n, name in enumerate(names))
    Path("list.jsonl").write_text(rows)
    table = pyarrow.table({"uri": names, "label": list(range(len(names)))})
    pyarrow.parquet.write_table(table, "list.parquet")


if __name__ == "__main__":
    inputs()
    for name, flags in RUNS.items():
        subprocess.run([*JOB, f"--output=outputs/{name}", *flags], check=True)
