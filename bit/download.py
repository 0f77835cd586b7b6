"""Fetches a model's weights to local disk, from the first place that has them, completely or not at all.

`python -m bit.download --model=bit/m-r101x3` fills the cache ahead of a job.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import logging
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from bit import home, transfer
from bit.checkpoint import open_checkpoint
from bit.command import exit_with
from bit.mirrors import Mirror, mirrors
from bit.models import Model, UnknownModel, UnusableModel, resolve

_TARBALLS = (".tar", ".tar.gz", ".tgz")

log = logging.getLogger(__name__)


class WeightsUnreachable(OSError):
    """No source of the weights can be reached, or each returned something else; or none may be asked."""


def cache_folder(cache_dir: str | None = None) -> str:
    """`cache_dir`, else this user's folder for caches (`bit.home`)."""
    return os.path.abspath(home.expanded(cache_dir)) if cache_dir else home.cache_folder()


def local_path(
    model: Model,
    cache_dir: str | None = None,
    *,
    head: bool = True,
    modules: bool = True,
    offline: bool = False,
) -> str:
    """The local path of the weights of `model`, fetched first if necessary; '' for untrained ones.

    An official checkpoint comes from the first of bit.mirrors that gives it: an `.npz`, a SavedModel's folder or a
    `.safetensors`, without its head if `head` is false and there is one without; without `modules` no SavedModel will do.
    `offline`: nothing is asked of the network, name servers included.
    Raises WeightsUnreachable; OSError if the network is not to blame, as on a full disk; UnusableModel for an unknown
    scheme.
    """
    if model.kind == "untrained":
        return ""
    scheme = urlsplit(model.uri).scheme if "://" in model.uri else ""
    if scheme not in ("", "http", "https"):
        raise UnusableModel(f"{model.uri}: copy it to local disk first; {scheme}:// cannot be read directly")
    if not scheme:
        is_tarball = model.uri.endswith(_TARBALLS) and os.path.isfile(model.uri)
        return _unpacked(model.uri, cache_dir) if is_tarball else model.uri
    places = tuple(place for place in mirrors(model.uri, head) if modules or not place.module)
    places = places or (_only(model),)
    # Without a head any copy will do, also one that has it.
    headed = (place for place in mirrors(model.uri, True) if modules or not place.module)
    copies = dict.fromkeys((*places, *headed))
    targets = [_target(place, cache_dir) for place in copies]
    for target in targets:
        if os.path.exists(target):
            return target
    if offline:
        raise WeightsUnreachable(_not_here(model, targets, cache_dir))
    return _first(model, places, cache_dir)


def _only(model: Model) -> Mirror:
    name = _without_query(model.uri)
    return Mirror(urlsplit(name).netloc, name, model.uri, model.uri if model.kind == "saved_model" else "")


def _first(model: Model, places: tuple[Mirror, ...], cache_dir: str | None) -> str:
    """The path of what the first of the places gives; each that fails is logged in one line."""
    causes: list[str] = []
    for index, place in enumerate(places):
        try:
            return _fetched(place, _target(place, cache_dir), model.architecture)
        except (*transfer.UNREACHABLE, transfer.WrongContent) as error:
            if len(places) == 1 and isinstance(error, transfer.WrongContent):
                raise OSError(f"{place.name} from {_without_query(place.url)}: {error}") from error
            causes.append(
                f"{place.place} ({_without_query(place.address)}): {transfer.cause(error, place.url)}"
            )
            if rest := places[index + 1 :]:
                log.warning("%s; trying %s (%s)", causes[-1], rest[0].place, rest[0].name)
            last: Exception = error
    raise WeightsUnreachable(_unreachable(model, causes, cache_dir)) from last


def _fetched(place: Mirror, target: str, architecture: str) -> str:
    with transfer.locked(f"{target}.lock"):
        # Another process may have finished while this one waited for the lock.
        if not os.path.exists(target):
            log.info("fetching %s from %s to %s", place.name, place.place, target)
            if place.module:
                transfer.fetch(_archive_address(place.address), f"{target}.tar")
                try:
                    _unpack(f"{target}.tar", target, transfer.WrongContent, "saved_model.pb")
                finally:
                    os.remove(f"{target}.tar")
            else:
                transfer.fetch(place.address, target, lambda path: _check(path, architecture))
    return target


def _check(path: str, architecture: str) -> None:
    """Raises WrongContent unless a file holds a checkpoint: some servers send what is wrong as if it were the file."""
    try:
        open_checkpoint(path, architecture)
    except UnusableModel as error:
        raise transfer.WrongContent(f"it has sent something else: {str(error).splitlines()[0]}") from error


def _target(place: Mirror, cache_dir: str | None) -> str:
    """Where it is kept: a file in our cache under its own URL, a module in the folder that tensorflow_hub uses for it."""
    if place.module:
        folder = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(cache_folder(cache_dir), "tfhub")
        return os.path.join(folder, hashlib.sha1(place.module.encode(), usedforsecurity=False).hexdigest())
    parts = urlsplit(place.url)
    folders = [parts.netloc, *unquote(parts.path).strip("/").split("/")]
    if parts.query:  # another query may mean another file
        folders.insert(-1, hashlib.sha256(parts.query.encode()).hexdigest()[:16])
    return os.path.join(cache_folder(cache_dir), *folders)


def _archive_address(url: str) -> str:
    """TF-Hub gives the archive for a module's handle if it is asked to; what already names an archive stays as it is."""
    path = urlsplit(url).path
    if path.endswith((*_TARBALLS, "/download")):
        return url
    return f"{url}{'&' if '?' in url else '?'}tf-hub-format=compressed"


def _without_query(url: str) -> str:
    return url.split("?")[0]


def _command(model: Model) -> str:
    return f"python -m bit.download --model={_without_query(model.name)}"


def _unreachable(model: Model, causes: list[str], cache_dir: str | None) -> str:
    alternative = "kaggle://OWNER/MODEL/tensorFlow2/VARIATION/VERSION for a model that was on TF-Hub, or "
    return "\n  ".join(
        [
            f"the weights of {_without_query(model.name)} could not be fetched:",
            *causes,
            f"Check the network and HTTPS_PROXY. Or run `{_command(model)}` on a machine with network and copy its cache folder "
            f"to {cache_folder(cache_dir)} here ($BIT_CACHE_DIR names another); or pass "
            f"{alternative if 'tfhub.dev' in model.uri else ''}--model=PATH; or try the job without trained weights: "
            f"--model=untrained/{model.architecture or 'r101x3'}",
        ]
    )


def _not_here(model: Model, targets: list[str], cache_dir: str | None) -> str:
    return "\n  ".join(
        [
            f"the weights of {_without_query(model.name)} are not on this machine, and --offline asks no other; looked for:",
            *targets,
            f"Run `{_command(model)}` on a machine with network and copy its cache folder to {cache_folder(cache_dir)} here "
            "($BIT_CACHE_DIR names another); or pass --model=PATH",
        ]
    )


def not_local(model: Model) -> str:
    """Why --offline refuses a model on a store."""
    return f"{model.uri} is on a store, and --offline asks none: copy it to local disk, and pass --model=PATH"


def _unpacked(tarball: str, cache_dir: str | None) -> str:
    """Unpacks a local tarball into a cache folder named after its path, size and modification time."""
    stat = os.stat(tarball)
    name = hashlib.sha256(
        f"{os.path.abspath(tarball)}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()
    ).hexdigest()[:32]
    target = os.path.join(cache_folder(cache_dir), "unpacked", name)
    with transfer.locked(f"{target}.lock"):
        if not os.path.isdir(target):
            _unpack(tarball, target, UnusableModel)
    return target


def _unpack(tarball: str, target: str, error_type: Callable[[str], Exception], needed: str = "") -> None:
    """Unpacks into the folder `target`, in one step. Raises `error_type` if the tarball is damaged or has no file `needed`."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as scratch:
        try:
            with tarfile.open(tarball) as archive:
                archive.extractall(f"{scratch}/model", filter="data")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise error_type(f"{tarball} cannot be unpacked ({error}); was the download cut off?") from error
        if not os.path.exists(os.path.join(scratch, "model", needed)):
            raise error_type(f"the archive has no {needed}")
        os.rename(f"{scratch}/model", target)


def main(argv: list[str] | None = None) -> int:
    """Returns 0; 1 for a full disk or damaged data, 2 for a wrong name, 3 if no source is reachable."""
    parser = argparse.ArgumentParser(prog="python -m bit.download", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name of `python -m bit.models`, or a URL")
    parser.add_argument("--offline", action="store_true", help="only say where it is on this machine")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = local_path(resolve(args.model), offline=args.offline)
    except WeightsUnreachable as error:
        print(error, file=sys.stderr)
        return 3
    except OSError as error:  # a full disk, a damaged download: the network is not to blame
        print(error, file=sys.stderr)
        return 1
    except (UnknownModel, UnusableModel) as error:
        print(error, file=sys.stderr)
        return 2
    log.info("%s is at %s", args.model, path or "no path: its weights are generated from a seed")
    return 0


if __name__ == "__main__":
    exit_with(main)
