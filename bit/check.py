"""Checks a local model path at launch, in milliseconds and without TensorFlow."""

from __future__ import annotations

import os

from bit import tuned
from bit.checkpoint import open_checkpoint
from bit.models import UnusableModel


def check(path: str, architecture: str = "") -> int | None:
    """Number of outputs of the head of the model at `path`: 0 for no head, None if only loading it would show.

    Raises UnusableModel unless `path` is an `.npz` of the family or a SavedModel's folder or tarball.

    Of an `.npz` it reads the directory and the array headers; of a folder it looks for a SavedModel's files.
    `architecture` is a key of bit.models.ARCHITECTURES that the checkpoint must hold; '' accepts any.
    """
    if os.path.isdir(path):
        _check_folder(path)
    elif not os.path.exists(path):
        raise UnusableModel(
            f"no file or folder {path}: check the path, or use a name from `python -m bit.models`"
        )
    elif path.endswith((".tar", ".tar.gz", ".tgz")):
        if not os.path.getsize(path):
            raise UnusableModel(f"{path} is empty; the download may have been cut off")
    else:
        return open_checkpoint(path, architecture).classes
    return None


def _check_folder(path: str) -> None:
    if not tuned.is_saved_model(path):
        if tuned.saved_model(path) != path:
            raise UnusableModel(
                f"{path} is not a SavedModel, but the folder {tuned.FINETUNED!r} in it is one, as in the output of a "
                f"fine-tuning: add /{tuned.FINETUNED} to the name"
            )
        content = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
        raise UnusableModel(
            f"{path} is not a SavedModel: it has no saved_model.pb (it holds {content}); "
            "give the folder that has one, or an .npz file"
        )
    variables = os.path.join(path, "variables")
    if os.path.isdir(variables) and os.listdir(variables) and "variables.index" not in os.listdir(variables):
        raise UnusableModel(f"{path} is incomplete: variables/variables.index is missing; copy it again")
