"""How fast a large object is read from a store that answers late: python -m benchmarks.store_reading

A server on this machine speaks S3, and Cloud Storage's JSON. It answers each request after --latency_ms and sends at most
--mb_per_s on each connection, as stores do. The job's own reader reads an object of TFRecords to its end, record by record, as
the job does, with one request at a time and with those ahead, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process, Queue

from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks import figures, inputs, lock, machine
from bit.command import exit_with
from transforms.records import tfrecord
from transforms.sources import summed
from transforms.storage import door, opening

_PART_BYTES = 64 << 10


class _Store(BaseHTTPRequestHandler):
    """One object under every name."""

    protocol_version = "HTTP/1.1"
    data = b""
    latency_seconds = bytes_per_second = 0.0

    def log_message(self, *_):
        pass

    def _begin(self) -> bytes:
        time.sleep(self.latency_seconds)
        first, last = 0, len(self.data) - 1
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), last)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 26 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        return self.data[first : last + 1]

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        if self.path.startswith("/storage/v1/"):
            about = json.dumps(
                {"name": "object", "bucket": "bucket", "size": len(self.data), "generation": "1"}
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(about)))
            self.end_headers()
            self.wfile.write(about.encode())
            return
        body, began = self._begin(), time.monotonic()
        for at in range(0, len(body), _PART_BYTES):
            self.wfile.write(body[at : at + _PART_BYTES])
            due = began + (at + _PART_BYTES) / self.bytes_per_second
            time.sleep(max(0.0, due - time.monotonic()))


def _serve(data: bytes, latency_seconds: float, bytes_per_second: float, ports: Queue) -> None:
    _Store.data, _Store.latency_seconds, _Store.bytes_per_second = data, latency_seconds, bytes_per_second
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    ports.put(server.server_address[1])
    server.serve_forever()


def _read(uri: str, size: int) -> tuple[tuple[float, float, float], str]:
    """Seconds, CPU seconds of this process and those with the lock held, and the checksum of what was read."""
    began = time.perf_counter(), time.process_time(), lock.held_seconds() or 0.0
    with summed.opened(uri, size) as (_, stored):
        stored.seek(0)
        for _ in tfrecord.read(stored, check=False):
            pass
        crc = stored.finish()
    ended = time.perf_counter(), time.process_time(), lock.held_seconds() or 0.0
    seconds, cpu, held = (end - start for start, end in zip(began, ended, strict=True))
    return (seconds, cpu, held), crc


def main() -> None:
    """Prints each round, then the medians."""
    lock.start_again_measured("benchmarks.store_reading")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=("s3", "gs"), default="s3")
    parser.add_argument("--latency_ms", type=float, default=50)
    parser.add_argument("--mb_per_s", type=float, default=100, help="of one connection")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    jpegs = [inputs.jpeg(seed) for seed in range(32)]
    data = b"".join(tfrecord.frame(jpegs[index % 32]) for index in range(flags.images))
    ports: Queue[int] = Queue()
    arguments = data, flags.latency_ms / 1000, flags.mb_per_s * 1e6, ports
    server = Process(target=_serve, args=arguments, daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get(timeout=60)}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    os.environ |= {"STORAGE_EMULATOR_HOST": url, "NO_GCE_CHECK": "true"}
    door.configure(PipelineOptions([f"--s3_endpoint_url={url}", "--s3_region_name=us-east-1"]))
    measured: dict[int, list[tuple[float, float, float]]] = {0: [], opening.BLOCKS_AHEAD: []}
    try:
        for _ in range(flags.rounds):
            for ahead, runs in measured.items():
                opening.BLOCKS_AHEAD = ahead
                times, crc = _read(f"{flags.store}://bucket/object", len(data))
                runs.append(times)
                print(f"  {ahead} ahead: {len(data) / times[0] / 1e6:.0f} MB/s, CRC-32C {crc}", flush=True)
    finally:
        server.terminate()
        server.join()
    print(machine.describe())
    what = f"{flags.store}://, {len(data) / 1e6:.0f} MB, {flags.latency_ms:g} ms until an answer"
    print(f"{what}, {flags.mb_per_s:g} MB/s per connection")
    print(
        "| requests at once | MB/s | images/s | CPU time, us per image | with the interpreter's lock |\n|---|---|---|---|---|"
    )
    for ahead, runs in measured.items():
        seconds, cpu, held = (statistics.median(values) for values in zip(*runs, strict=True))
        rate = flags.images / seconds
        times = " | ".join(f"{part / flags.images * 1e6:.0f}" for part in (cpu, held))
        print(f"| {ahead + 1} | {len(data) / seconds / 1e6:.0f} | {rate:.0f} | {times} |")
        figures.report(**{"as the job does" if ahead else "one request": rate})


if __name__ == "__main__":
    exit_with(main)
