"""What decides where the job's data goes: taken from the launcher's flags and environment, it travels with the steps.

An engine may start workers that get none of Beam's options, and on other hosts there are other environments.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    AzureOptions,
    GoogleCloudOptions,
    HadoopFileSystemOptions,
    PipelineOptions,
    S3Options,
    _BeamArgumentParser,
)

from transforms.storage.stores import STORES, store_of

_SECRET = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token", "azure_connection_string")


@dataclass(frozen=True)
class StoreSettings:
    """The stores as the launcher sees them.

    Attributes:
      options: Beam's options for stores as a JSON object, credentials included; not shown.
      endpoints: scheme and URL of stores, '' for the store's own address.
    """

    options: str = "{}"
    endpoints: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"StoreSettings({sorted(json.loads(self.options))}, {dict(self.endpoints)})"


def of_launcher(options: PipelineOptions, paths: Iterable[str]) -> StoreSettings:
    """The settings for a job with these paths."""
    given = options.get_all_options(drop_default=True)
    names = [name for name in _names() if name in given]
    used = {scheme for path in paths for scheme in store_of(path).schemes}
    endpoints = tuple(
        (store.schemes[0], store.endpoint(options))
        for store in STORES
        if used & set(store.schemes) or store.is_configured(options)
    )
    return StoreSettings(json.dumps({name: given[name] for name in names}, sort_keys=True), endpoints)


def without_secrets(options: PipelineOptions) -> PipelineOptions:
    """The options that an engine gets: some show them in a web page, and workers log them."""
    given = options.get_all_options(drop_default=True)
    for name in _SECRET:
        if given.get(name):
            setattr(options.view_as(AzureOptions if name.startswith("azure") else S3Options), name, None)
    return options


class _Process:
    """The options of this process's stores: `base` as it was started, `current` with those of the launcher."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.base: PipelineOptions | None = None
        self.current: PipelineOptions | None = None
        self.adopted = StoreSettings()


_process = _Process()


def use(options: PipelineOptions) -> None:
    """Gives the stores and Beam's file systems these options, in a process without a pipeline."""
    with _process.lock:
        # A copy, since the pipeline's options lose their secrets.
        _process.base = _process.current = PipelineOptions([], **options.get_all_options(drop_default=True))
        _process.adopted = StoreSettings()
        FileSystems.set_options(_process.current)


def adopt(settings: StoreSettings) -> None:
    """Makes the launcher's stores those of this process. Each step calls it, before anything else.

    Raises StorageFailed if this process has been told to use one of the stores at another address.
    """
    if settings == StoreSettings():
        return
    with _process.lock:
        if settings != _process.adopted:
            _process.base = _process.base or FileSystems._pipeline_options or PipelineOptions([])
            own = _process.base.get_all_options(drop_default=True)
            values = {**own, **json.loads(settings.options)}
            _process.current = _process.base if values == own else PipelineOptions([], **values)
            for scheme, url in settings.endpoints:
                store_of(f"{scheme}://").adopt(url, _process.current)
            _process.adopted = settings
        FileSystems.set_options(_process.current)  # a pipeline sets its own


def _names() -> set[str]:
    parser = _BeamArgumentParser()
    for kind in (S3Options, GoogleCloudOptions, HadoopFileSystemOptions, AzureOptions):
        kind._add_argparse_args(parser)
    return {action.dest for action in parser._actions} - {"help"}
