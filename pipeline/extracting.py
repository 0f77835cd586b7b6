"""The vectors of images in this process, without a pipeline, by the job's own decoding and network: see `pipeline.extract`."""

from __future__ import annotations

import difflib
import io
import os
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from transforms.elements import Encoded, Failure, FeatureChunk, PixelChunk, Shard
from transforms.errors import ItemError

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.options import JobConfig
    from transforms.sources.base import Source

    AnImage = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

_ON_DEVICE = 2  # batches that a device is given before the first one's vectors are waited for


class Extracted(NamedTuple):
    """What `extract` returns.

    Attributes:
      vectors: float32 (number of images, dimensions), in the order of the images; NaN where an image failed.
      failures: one for each image without a vector; `position` is its place among the images, from 0.
    """

    vectors: np.ndarray
    failures: tuple[Failure, ...]


def extract(images: Iterable[AnImage], model: str, output: str, **flags: Any) -> Extracted:
    """See `pipeline.extract`."""
    if isinstance(images, (str, bytes, os.PathLike)):
        raise TypeError("extract takes an iterable of images; for a single one: extract([image])")
    return _extractor(_config(model, output, flags))(images)


def _config(model: str, output: str, given: dict[str, Any]) -> JobConfig:
    from pipeline import options

    _check_names(given)
    if output not in ("embedding", "logits"):
        raise ValueError(f"output={output!r}: choose 'embedding' or 'logits'; the job writes top_k")
    given = {**given, "model": model, "outputs": output, "input": "-", "output": "-"}
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in given.items()
        if value is not None and value is not False
    }
    config, _ = options.parse([f"--{name}={value}" for name, value in texts.items()])
    return config


def _check_names(given: Iterable[str]) -> None:
    """Raises TypeError for a flag of the job that means nothing here, and for any other name."""
    from pipeline import flags

    taken = [*flags.group_names(flags.MODEL), *flags.group_names(flags.FETCHING)]
    names = [name for name in (flag.removeprefix("--") for flag in taken) if name not in _OF_OUTPUTS]
    for name in given:
        if name not in names:
            nearest = difflib.get_close_matches(name, ["output", *names], n=1, cutoff=0.75)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it takes output, model, {', '.join(names)}"
            raise TypeError(f"extract has no argument {name!r}; {hint}")


_OF_OUTPUTS = (
    "model",
    "outputs",
    "top_k",
)  # flags of the group that are arguments of their own, or are about files


class _Extractor:
    """A loaded model with the processes that decode for it."""

    def __init__(self, config: JobConfig):
        from transforms.feeding import feeders
        from transforms.fetching.fetcher import Fetcher
        from transforms.infer import BitModelHandler

        self._read = config.read
        self._max_pixels = config.preprocessing.max_pixels
        self._output = config.model.outputs[0]
        self._loading = BitModelHandler(config.model).load_model()
        self._feeders = feeders.acquire(config.decode)
        self._fetcher = Fetcher(config.read.fetch)
        self._pool = ThreadPoolExecutor(config.read.fetch.concurrency, "fetch")
        self._lock = threading.Lock()

    def __call__(self, images: Iterable[AnImage]) -> Extracted:
        values: list[np.ndarray | None] = []  # of each image: (dimensions,)
        failures: list[Failure] = []
        with self._lock:
            for chunk in self._features(self._pixels(images)):
                outputs = chunk.outputs.get(self._output)
                for item in chunk.items:
                    if isinstance(item, Failure):
                        failures.append(item)
                        values.append(None)
                    else:
                        assert outputs is not None, "a chunk with an image has outputs"
                        values.append(outputs[item.row])
            given = next((value for value in values if value is not None), None)
            dimensions = self._dimensions() if given is None else given.size
        vectors = np.full((len(values), dimensions), np.nan, np.float32)
        for row, value in enumerate(values):
            if value is not None:
                vectors[row] = value
        return Extracted(vectors, tuple(failures))

    def _pixels(self, images: Iterable[AnImage]) -> Iterator[PixelChunk]:
        from transforms.decode import CHUNKS_AHEAD, Pending, submit
        from transforms.fetching.ahead import in_order
        from transforms.read import chunks

        settings = self._read
        ahead = 2 * max(settings.batch_size, settings.fetch.concurrency)
        items = in_order(self._pool, self._item, enumerate(images), ahead)
        shard = Shard(
            0, 1, cast("Source", None), "the images given"
        )  # for messages; nothing reads its source
        pending: deque[Pending] = deque()
        for chunk in chunks(shard, items, settings.batch_size):
            pending.append(submit(chunk, self._feeders))
            if len(pending) > CHUNKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _features(self, pixel_chunks: Iterable[PixelChunk]) -> Iterator[FeatureChunk]:
        from transforms import infer

        pending: deque[FeatureChunk] = deque()
        for chunk in pixel_chunks:
            pending.append(infer.start(chunk, self._loading.ready()))
            if len(pending) > _ON_DEVICE:
                yield pending.popleft().resolved()
        while pending:
            yield pending.popleft().resolved()

    def _item(self, numbered: tuple[int, AnImage]) -> Encoded | Failure:
        """The bytes of an image file, as a source of the job yields them."""
        from transforms.sources.uri_list import key_of_uri

        position, image = numbered
        if isinstance(image, (str, os.PathLike)):
            text = os.fsdecode(image)
            key = key_of_uri(text)
            try:
                return Encoded(key, position, self._fetcher.fetch(text))
            except ItemError as error:
                return Failure(key, position, "fetch", error.code, str(error))
        key = f"#{position}".encode()
        if isinstance(image, (bytes, bytearray, memoryview)):
            return Encoded(key, position, bytes(image))
        _check_type(image, position)
        try:
            return Encoded(key, position, _png(image, self._max_pixels))
        except ItemError as error:
            return Failure(key, position, "decode", error.code, str(error))

    def _dimensions(self) -> int:
        model = self._loading.ready()
        return model(np.zeros(self._feeders.settings.shape, np.float32))[self._output].shape[1]


def _check_type(image: Any, position: int) -> None:
    """Raises TypeError for what is neither a PIL image nor an array of pixels."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (
            image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
        ):
            raise TypeError(
                f"image {position} is an array of {image.dtype} {image.shape}: arrays must be uint8, from 0 to 255, and "
                "(height, width), or (height, width, channels) with 1, 3 (RGB) or 4 (RGBA) channels"
            )
    elif not isinstance(image, Image.Image):
        raise TypeError(
            f"image {position} is of type {type(image).__name__}: pass paths, URIs, bytes, PIL images or arrays"
        )


def _png(image: np.ndarray | Image.Image, max_pixels: int) -> bytes:
    """A picture as a PNG, whose decoding gives its pixels back: so they are treated as those of a file are.

    Raises ItemError, as the decoding of a file does: PIL reads the pixels of an opened file only now."""
    from PIL import Image

    from transforms.imaging.pillow import pixels_of
    from transforms.imaging.preprocess import item_error

    if isinstance(image, np.ndarray):
        _check_size("array", image.shape[1], image.shape[0], max_pixels)
        image = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    name = image.format or "PIL image"
    _check_size(name, *image.size, max_pixels)
    out = io.BytesIO()
    try:
        image.load()
        exif = image.info.get(
            "exif"
        )  # as the file has it; `getexif` takes the orientation from elsewhere, too
        if image.mode == "CMYK" or image.mode.startswith(
            "I;16"
        ):  # as in a file; PIL's own conversions differ
            image = Image.fromarray(pixels_of(image))
        elif image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            image = image.convert("RGB")
        image.save(out, "PNG", compress_level=0, exif=exif if isinstance(exif, bytes) else b"")
    except MemoryError:
        raise
    except Exception as error:
        if _is_closed(image, error):
            raise ItemError(
                "corrupt",
                "the PIL image is closed and has no pixels; pass it while it is open, or pass its path",
            ) from error
        raise item_error(name, error) from error
    return out.getvalue()


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Raises ItemError as for a file, but does not advise copying one where there are no pixels."""
    from transforms.imaging.preprocess import check_size

    if width < 1 or height < 1:
        raise ItemError(
            "corrupt",
            f"the {name} has no pixels: it is {width} wide and {height} high; look where it is made",
        )
    check_size(name, width, height, max_pixels)


def _is_closed(image: Image.Image, error: Exception) -> bool:
    """Whether PIL raised this because the image, or the file that it reads, is closed."""
    unread = bool(getattr(image, "tile", ()))
    # After `with Image.open(...)` there is no file, which PIL reports by whatever then fails.
    return (isinstance(error, ValueError) and "closed" in str(error)) or (
        unread and getattr(image, "fp", None) is None
    )


_lock = threading.Lock()
_extractors: dict[Hashable, _Extractor] = {}
_is_forked = False  # from a process with extractors, whose threads and TensorFlow do not work here


def _after_fork() -> None:
    global _lock, _is_forked
    _lock = threading.Lock()
    _is_forked |= bool(_extractors)


os.register_at_fork(after_in_child=_after_fork)


def _extractor(config: JobConfig) -> _Extractor:
    if _is_forked:
        raise RuntimeError(
            "extract was called before this process was forked, and its model does not work in forks: start processes with "
            'multiprocessing.get_context("spawn"), or call extract only in those that are forked'
        )
    settings = config.read, config.decode, config.model
    with _lock:
        if settings not in _extractors:
            _extractors[settings] = _Extractor(config)
        return _extractors[settings]
