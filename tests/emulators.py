"""Object stores of one's own: real emulator processes on the loopback interface, holding all in memory."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

BUCKET = "pictures"


@contextlib.contextmanager
def gcs_emulator() -> Iterator[str]:
    """gcp-storage-emulator with an empty bucket; gives what STORAGE_EMULATOR_HOST takes."""
    port = _free_port()
    command = ["-c", "from gcp_storage_emulator.__main__ import main; main()", "start", "--host=127.0.0.1"]
    with _serving([*command, f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}"], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def s3_emulator() -> Iterator[str]:
    """moto's server, without buckets; gives an endpoint URL."""
    port = _free_port()
    command = ["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _serving(arguments: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        give_up = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{' '.join(arguments)} did not start to serve on port {port}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
