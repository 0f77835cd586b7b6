"""Writes the sample input: the photographs of `samples/photos` as TFRecord shards and as a list of URIs.

python -m samples.make_input local/input
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bit.command import exit_with
from transforms.records import examples, tfrecord

PHOTOS = Path(__file__).resolve().parent / "photos"
SHARDS = 3
FORMATS = {".gif": "gif", ".jpg": "jpeg", ".png": "png", ".tiff": "tiff", ".webp": "webp"}


def photo_paths() -> list[Path]:
    """The shipped photographs, absolute, sorted by name."""
    return sorted(path for path in PHOTOS.iterdir() if path.suffix in FORMATS)


def encode_example(path: Path, label: int) -> bytes:
    """One serialized `tf.train.Example` with the features of ImageNet's TFRecords.

    `image/encoded`, `image/format`, `image/filename`, `image/class/text`: one bytes value each;
    `image/class/label`: one int64.
    """
    values = {
        "image/class/label": label,
        "image/class/text": path.stem.replace("_", " "),
        "image/encoded": path.read_bytes(),
        "image/filename": path.name,
        "image/format": FORMATS[path.suffix],
    }
    example = examples.Example()
    example.features.MergeFromString(examples.from_columns(values))
    return example.SerializeToString(deterministic=True)


def write_input(folder: Path) -> None:
    """Writes `tfrecords/photos-*.tfrecord` and `photos.txt` (absolute paths, one per line) into `folder`.

    The photographs are in the order of their names; the label is the position in that order. The bytes of the
    shards are the same in each call; `photos.txt` depends on where the project is.
    """
    photos = photo_paths()
    records = [tfrecord.frame(encode_example(path, label)) for label, path in enumerate(photos)]
    (folder / "tfrecords").mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        first, end = (len(records) * i // SHARDS for i in (shard, shard + 1))
        name = f"photos-{shard:05d}-of-{SHARDS:05d}.tfrecord"
        (folder / "tfrecords" / name).write_bytes(b"".join(records[first:end]))
    (folder / "photos.txt").write_text("".join(f"{path}\n" for path in photos), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: writes the sample input into one folder."""
    parser = argparse.ArgumentParser(prog="python -m samples.make_input", description=write_input.__doc__)
    parser.add_argument("folder", type=Path, help="folder to write to; created if missing")
    folder = parser.parse_args(argv).folder
    write_input(folder)
    print(
        f"{len(photo_paths())} photographs in {SHARDS} TFRecord shards and one list: {folder}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    exit_with(main)
