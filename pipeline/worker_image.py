"""The image of the workers, where the launcher names one: it must have this project and the launcher's minor version of Python.

An image tells its Python only to whoever fetches its configuration from the registry, with the registry's credentials. So
what is compared at the start is what its name says, as Beam's own images have it (beam_python3.11_sdk:2.77.0) and as
docs/running.md tags those of `deploy/Dockerfile` (bit-features:1-py3.11). Whatever the name says, each worker compares
its own Python with the launcher's (`transforms/plan_file.py`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, SetupOptions, WorkerOptions

from pipeline import runners
from pipeline.flags import RequestError

_PYTHON = re.compile(r"(?<![a-z])(?:py|python)[-_]?(3)\.?(\d{1,2})(?!\d)", re.IGNORECASE)


def check(options: PipelineOptions, runner: str, here: Sequence[int] = sys.version_info[:2]) -> str:
    """A message about what the names of images leave open; '' if there is none.

    Raises RequestError if the image has another minor version of Python than `here`, or none with this project is named.
    """
    flag, image = _named(options, runner)
    if not image:
        if "dataflow" in runner.lower() and not _is_shipped(options.view_as(SetupOptions)):
            raise RequestError(
                f"{runner} needs --sdk_container_image=IMAGE: Beam's own image does not have this project. deploy/Dockerfile "
                "builds one (docs/running.md)"
            )
        return ""
    version = f"{here[0]}.{here[1]}"
    named = python_of(image)
    if not named:
        return (
            f"{flag}={image} must have Python {version}, as here; its name does not say so. One with a tag such as "
            f":1-py{version} is compared before anything starts"
        )
    if named != version:
        raise RequestError(
            f"{flag}={image} has Python {named} by its name, and this is Python {version}: workers cannot run what another minor "
            f"version of Python has pickled. Launch the job with Python {named} (docs/running.md, Container), or from the image "
            "itself as a Flex Template"
        )
    return ""


def python_of(image: str) -> str:
    """The minor version of Python that the name or tag of an image says, such as '3.11'; '' if neither says one."""
    found = _PYTHON.findall(image.partition("@")[0].rpartition("/")[2])
    return ".".join(found[-1]) if found else ""


def _named(options: PipelineOptions, runner: str) -> tuple[str, str]:
    """The flag that names the workers' image, and the image; '' if there is none."""
    portable = options.view_as(PortableOptions)
    image = options.view_as(WorkerOptions).sdk_container_image
    if image and runner != runners.LOCAL:
        return "--sdk_container_image", image
    if runners.is_portable(runner) and (portable.environment_type or "").upper() == "DOCKER":
        return "--environment_config", portable.environment_config or ""
    return "", ""


def _is_shipped(setup: SetupOptions) -> bool:
    """Whether the flags have the engine install packages into Beam's image."""
    return bool(setup.setup_file or setup.extra_packages or setup.requirements_file)
