"""Google's bucket, Kaggle and Hugging Face, played by one local server, with checkpoints of the family as each has them."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from bit import mirrors, timm
from bit.models import ARCHITECTURES
from bit.weights import Weights, shapes

NAMES = {"bucket": mirrors.BUCKET, "kaggle": mirrors.KAGGLE, "hf": mirrors.HUGGING_FACE}


class Places(ThreadingHTTPServer):
    """Serves `files` by official URL; those of Kaggle and Hugging Face by a redirect, as the real ones do.

    `answers` has, by place, what it answers instead: a status, or bytes of a web page. Clients with Python's own
    User-Agent get 403, as from tfhub.dev.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, int | bytes] = {}
        self.cuts: list[int] = []  # where each of the next files breaks off
        self.asked: list[str] = []  # 'PLACE PATH', and the range if only a part was asked for

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server_port}"
        return {mirrors.ENDPOINTS[base]: f"{url}/{place}" for place, base in NAMES.items()}

    @property
    def places(self) -> list[str]:
        """Which places were asked, in order."""
        return list(dict.fromkeys(line.split()[0] for line in self.asked))


class _Handler(BaseHTTPRequestHandler):
    server: Places

    def do_GET(self):
        _, place, path = self.path.split("/", 2)
        if self.headers["User-Agent"].startswith("Python-urllib"):
            self.send_error(403)
            return
        if place == "cdn":  # of one of the other places
            place, path = path.split("/", 1)
            self._send(self.server.files[f"{NAMES[place]}/{path}"], place)
            return
        self.server.asked.append(f"{place} {path} {self.headers.get('Range', '')}".strip())
        answer = self.server.answers.get(place, 200)
        content = self.server.files.get(f"{NAMES[place]}/{path}")
        if isinstance(answer, bytes):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        elif answer != 200 or content is None:
            self.send_error(answer if answer != 200 else 404)
        elif place == "bucket":
            self._send(content, place)
        else:
            self.send_response(302)
            self.send_header("Location", f"/cdn/{place}/{path}")
            if place == "hf":
                self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, place: str):
        etag, asked = f'"{hashlib.sha256(content).hexdigest()[:32]}"', self.headers.get("Range")
        start = int(asked[6:-1]) if asked and self.headers.get("If-Range") == etag else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        if place != "hf":
            digest = base64.b64encode(hashlib.md5(content).digest()).decode()
            self.send_header("x-goog-hash", f"md5={digest}")
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_):
        pass


def npz(weights: Weights) -> bytes:
    """The official checkpoint."""
    out = io.BytesIO()
    names = shapes(weights.architecture, weights.classes)
    np.savez(out, **{f"resnet/{name}": weights.array(name) for name in names})
    return out.getvalue()


def hollow(architecture: str, classes: int = 0, size: int = 0) -> bytes:
    """What opens as the official checkpoint, with headers of arrays but no numbers, behind so many other bytes."""
    out = io.BytesIO(bytes(range(256)) * (size // 256))
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a") as archive:
        for name, shape in shapes(ARCHITECTURES[architecture], classes).items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            archive.writestr(f"resnet/{name}.npy", header.getvalue())
    return out.getvalue()


def safetensors(weights: Weights) -> bytes:
    """The same as timm has it."""
    out = {}
    for name in shapes(weights.architecture, weights.classes):
        value = weights.array(name)
        out[timm_name(name)] = np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value
    return save(out)


def timm_name(name: str) -> str:
    """What timm calls an official array."""
    known = {official: theirs for theirs, official in timm._OUTSIDE_UNITS.items()}
    if name in known:
        return known[name]
    block, unit, part, *rest = name.split("/")
    at, number = f"stages.{int(block[5:]) - 1}.blocks.{int(unit[4:]) - 1}", "abc".index(part) + 1
    if rest[0] == "proj":
        return f"{at}.downsample.conv.weight"
    if rest[0] == "group_norm":
        return f"{at}.norm{number}.{'weight' if rest[1] == 'gamma' else 'bias'}"
    return f"{at}.conv{number}.weight"


def archive(folder: Path, mode: str = "w:gz") -> bytes:
    """A SavedModel's folder as Kaggle packs it; mode 'w' is faster."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as packed:
        packed.add(folder, ".")
    return out.getvalue()
