"""How fast a large object is read from a store that answers late: python -m benchmarks.store_reading

A server on this machine speaks S3. It answers each request after --latency_ms and sends at most --mb_per_s on each
connection, as stores do. The job's own reader reads an object of TFRecords to its end, record by record, as the job does, with
one request at a time and with those ahead, in turns.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process, Queue

from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks import figures, inputs, machine
from bit.command import exit_with
from transforms.records import tfrecord
from transforms.sources import summed
from transforms.storage import door, opening

_PART_BYTES = 64 << 10


class _S3(BaseHTTPRequestHandler):
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
        body, began = self._begin(), time.monotonic()
        for at in range(0, len(body), _PART_BYTES):
            self.wfile.write(body[at : at + _PART_BYTES])
            due = began + (at + _PART_BYTES) / self.bytes_per_second
            time.sleep(max(0.0, due - time.monotonic()))


def _serve(data: bytes, latency_seconds: float, bytes_per_second: float, ports: Queue) -> None:
    _S3.data, _S3.latency_seconds, _S3.bytes_per_second = data, latency_seconds, bytes_per_second
    server = ThreadingHTTPServer(("127.0.0.1", 0), _S3)
    ports.put(server.server_address[1])
    server.serve_forever()


def _read(uri: str, size: int) -> tuple[float, float, str]:
    """Seconds, CPU seconds of this process, and the checksum of what was read."""
    began, cpu = time.perf_counter(), time.process_time()
    with summed.opened(uri, size) as (_, stored):
        stored.seek(0)
        for _ in tfrecord.read(stored, check=False):
            pass
        crc = stored.finish()
    return time.perf_counter() - began, time.process_time() - cpu, crc


def main() -> None:
    """Prints each round, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    url = f"http://127.0.0.1:{ports.get(timeout=60)}"
    door.configure(PipelineOptions([f"--s3_endpoint_url={url}", "--s3_region_name=us-east-1"]))
    measured: dict[int, list[tuple[float, float]]] = {0: [], opening.BLOCKS_AHEAD: []}
    try:
        for _ in range(flags.rounds):
            for ahead, runs in measured.items():
                opening.BLOCKS_AHEAD = ahead
                seconds, cpu, crc = _read("s3://bucket/object", len(data))
                runs.append((seconds, cpu))
                print(f"  {ahead} ahead: {len(data) / seconds / 1e6:.0f} MB/s, CRC-32C {crc}", flush=True)
    finally:
        server.terminate()
        server.join()
    print(machine.describe())
    print(
        f"{len(data) / 1e6:.0f} MB, {flags.latency_ms:g} ms until an answer, {flags.mb_per_s:g} MB/s per connection"
    )
    print("| requests at once | MB/s | images/s | CPU time, us per image |\n|---|---|---|---|")
    for ahead, runs in measured.items():
        seconds, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
        rate = flags.images / seconds
        print(
            f"| {ahead + 1} | {len(data) / seconds / 1e6:.0f} | {rate:.0f} | {cpu / flags.images * 1e6:.0f} |"
        )
        figures.report(**{"as the job does" if ahead else "one request": rate})


if __name__ == "__main__":
    exit_with(main)
