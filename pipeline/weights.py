"""Checks that the requested model is available and usable, identifies its weights, and reads what it says of itself.

Imports no TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from bit import check, digests, download, models, outputs, tuned
from bit.mirrors import BUCKET
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.fetching.uris import public_uri
from transforms.infer import ModelSettings
from transforms.storage import copying, door
from transforms.storage.errors import is_transient

_T = TypeVar("_T")


def identify(settings: ModelSettings, is_local_run: bool, modules: bool = True) -> str:
    """A string that changes with the weights. Raises RequestError if the model is unavailable or unusable.

    Weights behind http(s) are downloaded to this machine's cache if the job runs here; without `modules` not as a SavedModel.
    Official ones never change, so their address in Google's bucket identifies them, wherever they come from.
    """
    model = settings.model
    try:
        if model.kind == "untrained":
            return f"{model.architecture}, seeded"
        if model.uri.startswith(("http://", "https://")):
            if not is_local_run:
                return public_uri(model.uri)
            path = download.local_path(
                model, head=settings.uses_head, modules=modules, offline=settings.offline
            )
            _check(settings, path)
            return model.uri if model.uri.startswith(f"{BUCKET}/") else f"sha256:{_digest(path)}"
        if door.is_local(model.uri):
            path = door.local(model.uri)
            _check(settings, path)
            return f"sha256:{_digest(path)}"
        if settings.offline:
            raise download.WeightsUnreachable(download.not_local(model))
        return f"checksums:{copying.checksum(model.uri)}"
    except (download.WeightsUnreachable, models.UnusableModel, OSError, ValueError, ImportError) as error:
        if is_transient(error):
            raise
        raise RequestError(f"--model={public_uri(model.name)}: {door.explain(model.uri, error)}") from error


def described(config: JobConfig, is_local_run: bool) -> JobConfig:
    """The request with the pixels and the class names that a tuned model brings, unless flags set them.

    Raises RequestError if they cannot be read. Those of a model that only the workers fetch stay unknown here.
    """
    settings = config.model
    model = settings.model
    if model.architecture or model.kind == "untrained":  # the name says it all
        return config
    try:
        at = model.uri
        if at.startswith(("http://", "https://")) or (door.is_local(at) and not os.path.isdir(at)):
            if not is_local_run and not (door.is_local(at) and model.kind == "npz"):
                return config
            at = download.local_path(model, head=settings.uses_head, offline=settings.offline)
        elif settings.offline and not door.is_local(at):
            raise download.WeightsUnreachable(download.not_local(model))
        own = _read(at, model.kind, tuned.PREPROCESSING, tuned.parse_preprocessing) or tuned.UNKNOWN
        names = _read(at, model.kind, tuned.CLASSES, tuned.parse_names) or ()
        classes = len(names) or (_head(at, model) if door.is_local(at) else None)
    except (download.WeightsUnreachable, models.UnusableModel, OSError, ValueError, ImportError) as error:
        raise RequestError(f"--model={public_uri(model.name)}: {door.explain(model.uri, error)}") from error
    pixels = config.preprocessing
    if "image_size" in config.unset:
        pixels = replace(pixels, image_size=own.image_size or model.image_size)
        settings = replace(settings, image_size=pixels.image_size)
    if "exif_orientation" in config.unset:
        pixels = replace(pixels, exif_orientation=own.exif_orientation)
    config = replace(config, decode=replace(config.decode, preprocessing=pixels))
    if "top_k" in config.unset:
        settings = replace(settings, top_k=outputs.default_top_k(classes))
    if settings.uses_head:
        settings = replace(settings, class_names=names)
    return replace(config, model=settings)


def _read(at: str, kind: str, file: str, parse: Callable[[bytes, str], _T]) -> _T | None:
    place = tuned.place(at, kind, file)
    content = door.read_if_there(place)
    return None if content is None else parse(content, place)


def _head(path: str, model: models.Model) -> int | None:
    return check.check(door.local(path), model.architecture)


def _check(settings: ModelSettings, path: str) -> None:
    classes = check.check(path, settings.model.architecture)
    if settings.class_names and classes:
        tuned.check_names(settings.class_names, classes, f"{tuned.CLASSES} of {settings.model.name}")
    elif classes is None and settings.class_names:
        classes = len(settings.class_names)
    outputs.check(settings.model, settings.outputs, settings.top_k, classes)


def _digest(path: str) -> str:
    return digests.of_file(path) if os.path.isfile(path) else digests.of_folder(path)
