"""This user's folders: home, and the one for caches. Also where there is no home, as in many containers."""

from __future__ import annotations

import functools
import logging
import os
import pwd
import stat
import tempfile

_NAME = "bit-features"
_REMEDY = "set HOME, XDG_CACHE_HOME or BIT_CACHE_DIR to keep them elsewhere"

log = logging.getLogger(__name__)
notice = ""  # what to tell the user, if settled() had to make up a home


class NoHome(ValueError):
    """A path begins with ~, and nobody knows this user's home."""


def settled() -> dict[str, str]:
    """HOME for the environment, where it is empty there or unknown.

    To be set before other libraries are imported: they take '~' literally then, and make a folder of that name.
    """
    global notice
    if os.environ.get("HOME"):
        return {}
    if known := _home():
        return {"HOME": known}
    folder = temporary_folder()
    notice = f"this user has no home folder: caches are in {folder}; {_REMEDY}"
    return {"HOME": folder}


def expanded(path: str) -> str:
    """A path with the home folder for a ~ at its start. Raises NoHome."""
    if path != "~" and not path.startswith("~/"):
        return os.path.expanduser(path)  # ~USER, if there is such a user
    home = "" if notice else _home()
    if not home:
        raise NoHome(f"{path}: this user has no home folder; set HOME, or write the path in full")
    return home.rstrip("/") + path[1:] or "/"


def cache_folder() -> str:
    """$BIT_CACHE_DIR, else below $XDG_CACHE_HOME, else below ~/.cache; a temporary folder where none of these can be."""
    if folder := os.environ.get("BIT_CACHE_DIR"):
        return os.path.abspath(expanded(folder))
    if os.path.isabs(folder := os.environ.get("XDG_CACHE_HOME", "")):
        return os.path.join(folder, _NAME)
    if home := _home():
        folder = os.path.join(os.path.abspath(home), ".cache", _NAME)
        if os.path.exists(folder) or _can_be_made(folder):
            return folder
    return _without_home()


def temporary_folder() -> str:
    """A folder of this user alone below the system's temporary one, the same in each process if nobody else has it."""
    folder = os.path.join(tempfile.gettempdir(), f"{_NAME}-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return folder if is_ours and not status.st_mode & 0o022 else tempfile.mkdtemp(prefix=f"{_NAME}-")


@functools.cache
def _without_home() -> str:
    folder = temporary_folder()
    log.warning(
        "this user's home folder does not exist or cannot be written: caches are in %s; %s", folder, _REMEDY
    )
    return folder


def _home() -> str:
    if home := os.environ.get("HOME"):
        return home
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container's arbitrary user
        return ""


def _can_be_made(folder: str) -> bool:
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)
