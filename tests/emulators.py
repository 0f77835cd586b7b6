"""Object stores of one's own: real emulator processes on the loopback interface, holding all in memory."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests import engines

_FAKE_GCS = "github.com/fsouza/fake-gcs-server@v1.55.1"

BUCKET = "pictures"


@contextlib.contextmanager
def gcs_emulator() -> Iterator[str]:
    """gcp-storage-emulator with an empty bucket; gives what STORAGE_EMULATOR_HOST takes."""
    port = _free_port()
    command = [
        sys.executable,
        "-c",
        "from gcp_storage_emulator.__main__ import main; main()",
        "start",
        "--host=127.0.0.1",
    ]
    with _serving([*command, f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}"], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def fake_gcs_server() -> Iterator[str]:
    """fake-gcs-server, which honours preconditions, without buckets; gives what STORAGE_EMULATOR_HOST takes."""
    folder = engines.CACHE / _FAKE_GCS.rpartition("/")[2]
    program = engines.install(
        folder / "fake-gcs-server",
        [engines.require("go", "golang"), "install", _FAKE_GCS],
        GOBIN=str(folder),
        GOFLAGS="-mod=mod",
    )
    port = _free_port()
    address = f"127.0.0.1:{port}"
    command = [str(program), "-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory"]
    with _serving([*command, f"-public-host={address}", f"-external-url=http://{address}"], port):
        yield f"http://{address}"


@contextlib.contextmanager
def s3_emulator() -> Iterator[str]:
    """moto's server, without buckets; gives an endpoint URL."""
    port = _free_port()
    command = [
        sys.executable,
        "-c",
        "from moto.server import main; main()",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with _serving(command, port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{' '.join(command)} did not start to serve on port {port}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
