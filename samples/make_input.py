"""Writes the sample input: the photographs of `samples/photos` as TFRecord shards and as a list of URIs.

python -m samples.make_input local/input
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bit import streams

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
    import tensorflow as tf

    def bytes_feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/class/text": bytes_feature(path.stem.replace("_", " ").encode()),
        "image/encoded": bytes_feature(path.read_bytes()),
        "image/filename": bytes_feature(path.name.encode()),
        "image/format": bytes_feature(FORMATS[path.suffix].encode()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def write_input(folder: Path) -> None:
    """Writes `tfrecords/photos-*.tfrecord` and `photos.txt` (absolute paths, one per line) into `folder`.

    The photographs are in the order of their names; the label is the position in that order. The bytes of the
    shards are the same in each call; `photos.txt` depends on where the project is.
    """
    import tensorflow as tf

    photos = photo_paths()
    examples = [encode_example(path, label) for label, path in enumerate(photos)]
    (folder / "tfrecords").mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        first, end = (len(examples) * i // SHARDS for i in (shard, shard + 1))
        name = f"photos-{shard:05d}-of-{SHARDS:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(folder / "tfrecords" / name)) as writer:
            for example in examples[first:end]:
                writer.write(example)
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
    streams.guard()
    main()
