"""A sample for TensorBoard's projector: vectors, metadata, and a sprite image of the pictures.

A part leaves its rows of the sample as an Arrow file; the last step puts these together.
(github.com/tensorflow/tensorboard/blob/master/docs/tensorboard_projector_plugin.ipynb)
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from transforms.exporting import vectors
from transforms.exporting.base import Export, Part, batches
from transforms.exporting.files import placed
from transforms.records import columns
from transforms.sources import pictures
from transforms.storage import door

_EMBEDDING, _TILE = "embedding", "tile"
_SPRITE_SIDE = 8192  # pixels: browsers hold no larger texture
_TILE_SIDE = 64
_EMPTY = 0x80  # gray, of a picture that cannot be read any more


def sample(limit: int, rows: int, first: int, count: int) -> list[int]:
    """Which of `count` rows, the first of which is row `first` of `rows`, are among `limit` evenly spread ones; from 0."""
    limit = min(limit, rows)
    begin, end = (-(-at * limit // rows) for at in (first, first + count))
    return [index * rows // limit - first for index in range(begin, end)]


class _TensorBoard:
    name = "tensorboard"
    final = "projector_config.pbtxt"
    described_by = ""
    needs_embedding = True
    files = ("tensors.bytes", "metadata.tsv", "sprite.png", final)

    def done(self, export: Export, part: Part) -> str:
        """The rows of the sample that lie in the part."""
        is_empty = not sample(export.limit, export.rows, part.first, part.rows)
        return "" if is_empty else export.place.hidden("parts", f"{part.name}.arrow")

    def write(self, export: Export, part: Part, schema: pa.Schema) -> None:
        """Writes the part's rows of the sample, each with its tile, which is null where there is none."""
        wanted = np.array(sample(export.limit, export.rows, part.first, part.rows))
        target = vectors.schema(export, schema).append(pa.field(_TILE, pa.binary()))
        with placed(self.done(export, part)) as out, pa.ipc.new_file(out, target) as writer:
            start = 0
            for batch in batches(export.layout, part, schema):
                inside = wanted[(wanted >= start) & (wanted < start + len(batch))]
                rows = vectors.convert(
                    export, batch.take(pa.array(inside - start)), target.remove(len(target) - 1)
                )
                tiles = pa.array(_tiles(part, inside, rows), pa.binary())
                writer.write_batch(pa.RecordBatch.from_arrays([*rows.columns, tiles], schema=target))
                start += len(batch)

    def finish(self, export: Export) -> None:
        """Puts the parts together; the configuration, without which TensorBoard shows nothing, comes last."""
        config = export.place.file(self.final)
        if door.exists(config):
            return
        paths = [file.path for file in door.match(export.place.hidden("parts", "*.arrow"))]
        count = min(export.limit, export.rows)
        with (
            placed(export.place.file("tensors.bytes")) as tensors,
            placed(export.place.file("metadata.tsv")) as metadata,
        ):
            sprite = Sprite(count)
            for index, batch in enumerate(_read(paths)):
                embeddings = columns.to_numpy(batch.column(_EMBEDDING))
                tensors.write(embeddings.astype("<f4").tobytes())
                metadata.write(_table(batch, with_header=index == 0).encode())
                sprite.add(batch.column(_TILE))
            dimensions = embeddings.shape[1]
        if sprite.has_pictures:
            door.write_atomic(export.place.file("sprite.png"), sprite.png())
        door.write_atomic(config, _config(count, dimensions, sprite.has_pictures).encode())
        door.delete(paths)
        door.remove_folder_if_empty(export.place.hidden("parts"))


def _tiles(part: Part, wanted: np.ndarray, rows: pa.RecordBatch) -> list[bytes | None]:
    tiles: dict[int, bytes] = {}
    if part.pictures and len(wanted):
        digests = dict(zip(wanted.tolist(), rows.column(columns.SHA256).to_pylist(), strict=True))
        thumbnails = pictures.thumbnails(part.pictures, digests, _TILE_SIDE)
        tiles = {row: tile.tobytes() for row, tile in thumbnails}
    return [tiles.get(row) for row in wanted.tolist()]


def _read(paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with door.open_binary(path) as stream, pa.ipc.open_file(stream) as file:
            for index in range(file.num_record_batches):
                yield file.get_batch(index)


class Sprite:
    """The pictures of a sample in one image, row by row, in a square that TensorBoard cuts by their number."""

    def __init__(self, count: int):
        self._per_side = max(1, math.ceil(math.sqrt(count)))
        self._side = side_of_tiles(count)
        self._size = self._per_side * self._side, math.ceil(count / self._per_side) * self._side
        self._image: Image.Image | None = None  # which takes 123 MB for 10,000 tiles
        self._next = 0

    @property
    def has_pictures(self) -> bool:
        """Whether any tile was not empty."""
        return self._image is not None

    def add(self, tiles: pa.Array) -> None:
        """Appends a column of tiles, uint8 (64, 64, 3) each; null for an empty one."""
        for tile in tiles.to_pylist():
            row, column = divmod(self._next, self._per_side)
            self._next += 1
            if tile is not None:
                picture = Image.frombytes("RGB", (_TILE_SIDE, _TILE_SIDE), tile)
                if self._side != _TILE_SIDE:
                    picture = picture.resize((self._side, self._side), Image.Resampling.BOX)
                self._image = self._image or Image.new("RGB", self._size, (_EMPTY,) * 3)
                self._image.paste(picture, (column * self._side, row * self._side))

    def png(self) -> bytes:
        """As a file. Called only if it has pictures."""
        assert self._image
        out = io.BytesIO()
        self._image.save(out, "PNG")
        return out.getvalue()


def side_of_tiles(count: int) -> int:
    """The side of each of `count` tiles in the sprite, in pixels."""
    return max(1, min(_TILE_SIDE, _SPRITE_SIDE // max(1, math.ceil(math.sqrt(count)))))


def _table(batch: pa.RecordBatch, with_header: bool) -> str:
    """The columns but the vectors as tab-separated values."""
    names = [name for name in batch.schema.names if name not in (*columns.vectors(batch.schema), _TILE)]
    rows = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    lines = ([names] if with_header else []) + [[_cell(value) for value in row] for row in rows]
    return "".join("\t".join(line) + "\n" for line in lines)


def _cell(value: Any) -> str:
    """A value without the characters that end a cell."""
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    text = (
        value.decode("utf-8", "backslashreplace")
        if isinstance(value, bytes)
        else ""
        if value is None
        else str(value)
    )
    return " ".join(text.replace("\t", " ").splitlines())


def _config(rows: int, dimensions: int, has_sprite: bool) -> str:
    side = side_of_tiles(rows)
    sprite = f"""\
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
"""
    return f"""\
embeddings {{
  tensor_name: "{_EMBEDDING}"
  tensor_shape: {rows}
  tensor_shape: {dimensions}
  tensor_path: "tensors.bytes"
  metadata_path: "metadata.tsv"
{sprite if has_sprite else ""}}}
"""


FORMAT = _TensorBoard()
