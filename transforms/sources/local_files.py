"""The files below a local folder, with a reason for each one that is left out.

Links are followed. Whatever cannot be listed or read, and a broken link, ends the search with BadInput.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from apache_beam.io.filesystem import FileMetadata

from transforms.sources import left_out
from transforms.sources.base import BadInput


@dataclass
class Walk:
    """One search. `skipped` is path -> reason for each file left out.

    Args:
      root: the folder.
      pattern: what paths must match, as a regular expression; None for all.
      levels: what the names of the folders below `root` must match, level by level.
      is_deep: whether files may lie deeper than `levels`.
      with_hidden: whether hidden files are included.
    """

    root: str
    pattern: re.Pattern[str] | None
    levels: Sequence[re.Pattern[str]]
    is_deep: bool
    with_hidden: bool
    skipped: dict[str, str] = field(default_factory=dict)

    def files(self) -> list[FileMetadata]:
        """The matching files, sorted by path; a file reached by several links only once. Raises BadInput."""
        by_target: dict[str, list[tuple[bool, FileMetadata]]] = {}
        for file, target, is_linked in self._all():
            by_target.setdefault(target, []).append((is_linked, file))
        chosen = []
        for files in by_target.values():
            (_, first), *duplicates = sorted(files, key=lambda pair: (pair[0], pair[1].path))
            chosen.append(first)
            self.skipped |= {file.path: left_out.SECOND_LINK for _, file in duplicates}
        return sorted(chosen, key=lambda file: file.path)

    def _all(self) -> Iterator[tuple[FileMetadata, str, bool]]:
        """Each file with its real path, and whether a link leads to it."""
        queue = [(self.root, os.path.realpath(self.root or "."), False)]
        linked: list[tuple[str, str, bool]] = []  # visited last, so that a folder's own path takes precedence
        visited: set[str] = set()
        ancestors: dict[str, frozenset[str]] = {self.root: frozenset()}  # real folders above, by path
        while queue or linked:
            folder, real, is_linked = queue.pop() if queue else linked.pop(0)
            # What a pattern matches depends on the path: there, only a link to a folder above is not followed.
            if real in (visited if self.pattern is None else ancestors[folder]):
                self.skipped[folder] = left_out.SECOND_LINK
                continue
            visited.add(real)
            for entry in self._entries(folder):
                # Not entry.path, which begins with ./ in the working directory.
                path = os.path.join(folder, entry.name)
                relative = path[len(self.root) :].lstrip("/")
                is_link = entry.is_symlink()
                reason = left_out.by_name(relative, self.with_hidden)
                try:
                    status = entry.stat()
                except OSError as error:
                    is_gone = isinstance(error, FileNotFoundError) and not is_link
                    if not is_gone and self._matches(path):
                        if not reason:
                            raise _unusable(path, is_link, error) from error
                        self.skipped[path] = reason
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if reason:
                        self._skip_below(path, reason)
                    elif self._goes_into(relative):
                        target = os.path.realpath(path) if is_link else os.path.join(real, entry.name)
                        (linked if is_link else queue).append((path, target, is_linked or is_link))
                        ancestors[path] = ancestors[folder] | {real}
                elif not self._matches(path):
                    continue
                elif reason:
                    self.skipped[path] = reason
                elif not stat.S_ISREG(status.st_mode):
                    self.skipped[path] = left_out.SPECIAL
                else:
                    target = os.path.realpath(path) if is_link else os.path.join(real, entry.name)
                    yield FileMetadata(path, status.st_size, status.st_mtime), target, is_linked or is_link

    def _entries(self, folder: str) -> list[os.DirEntry]:
        try:
            with os.scandir(folder or ".") as entries:
                return list(entries)
        except FileNotFoundError:  # deleted meanwhile
            return []
        except OSError as error:
            raise BadInput(
                f"{folder} cannot be listed ({error.strerror}), so its files would be missing: give this user "
                "permission to read it, or name the input by globs that leave it out"
            ) from error

    def _goes_into(self, relative: str) -> bool:
        level = relative.count("/")
        if level >= len(self.levels):
            return self.is_deep
        return self.levels[level].match(posixpath.basename(relative)) is not None

    def _matches(self, path: str) -> bool:
        return self.pattern is None or self.pattern.match(path) is not None

    def _skip_below(self, folder: str, reason: str) -> None:
        """Adds the matching files below a folder that is left out, as far as they can be listed."""
        for below, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(below, name)
                if self._matches(path):
                    self.skipped[path] = reason


def check_readable(path: str) -> None:
    """Raises BadInput if this user may not read a file."""
    if not os.access(path, os.R_OK):
        raise BadInput(
            f"{path} cannot be read (Permission denied): give this user permission to read it, or name the input by "
            "globs that leave it out"
        )


def _unusable(path: str, is_link: bool, error: OSError) -> BadInput:
    what = "is a broken link" if is_link else "cannot be inspected"
    return BadInput(
        f"{path} {what} ({error.strerror}): repair or remove it, or name the input by globs that leave it out"
    )
