"""Checks that the requested model is available and usable, and identifies its weights. Imports no TensorFlow."""

from __future__ import annotations

import os

from bit import check, digests, download, models, outputs
from bit.mirrors import BUCKET
from pipeline.flags import RequestError
from transforms.fetching.uris import public_uri
from transforms.infer import ModelSettings
from transforms.storage import copying, door


def identify(settings: ModelSettings, is_local_run: bool) -> str:
    """A string that changes with the weights. Raises RequestError if the model is unavailable or unusable.

    Weights behind http(s) are downloaded to this machine's cache if the job runs here. Official ones never change, so their
    address in Google's bucket identifies them, wherever they come from.
    """
    model = settings.model
    try:
        if model.kind == "untrained":
            return f"{model.architecture}, seeded"
        if model.uri.startswith(("http://", "https://")):
            if not is_local_run:
                return public_uri(model.uri)
            path = download.local_path(model, head=settings.uses_head, offline=settings.offline)
            _check(settings, path)
            return model.uri if model.uri.startswith(BUCKET) else f"sha256:{_digest(path)}"
        if door.is_local(model.uri):
            path = door.local(model.uri)
            _check(settings, path)
            return f"sha256:{_digest(path)}"
        if settings.offline:
            raise download.WeightsUnreachable(download.not_local(model))
        return f"checksums:{copying.checksum(model.uri)}"
    except (download.WeightsUnreachable, models.UnusableModel, OSError, ValueError, ImportError) as error:
        raise RequestError(f"--model={public_uri(model.name)}: {door.explain(model.uri, error)}") from error


def _check(settings: ModelSettings, path: str) -> None:
    classes = check.check(path, settings.model.architecture)
    outputs.check(settings.model, settings.outputs, settings.top_k, classes)


def _digest(path: str) -> str:
    return digests.of_file(path) if os.path.isfile(path) else digests.of_folder(path)
