"""Stores are alike and never retry, and a new one is one object in one list."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import threading

import pytest

from pipeline import verify
from pipeline.dry_run import sample
from tests import helpers
from tests.storage.memory import Forgetful, MemoryFile, MemoryStore
from transforms.errors import ItemError
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings
from transforms.sources import listing, text_rows
from transforms.sources.rows import Columns
from transforms.storage import door, opening, reading, stores
from transforms.storage.errors import Fault
from transforms.storage.other import OTHER

PATIENT = {"retrying", "watching", "reading", "writing", "opening", "whole", "copying", "door"}


@pytest.fixture
def memory(monkeypatch):
    """A store in the list, like any other."""
    store = MemoryStore()
    monkeypatch.setitem(stores._BY_SCHEME, "memory", store)
    return store


@pytest.fixture
def fetcher():
    settings = FetchSettings(
        max_bytes=10, uri_schemes=("memory",), backoff_seconds=0.001, timeout_seconds=20, retries=2
    )
    fetcher = Fetcher(settings)
    yield fetcher
    fetcher.close()


def imported(source: str) -> set[str]:
    """All modules that a source file imports, and the names imported from them."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("store", [*stores.STORES, OTHER], ids=lambda store: type(store).__name__)
def test_a_store_knows_no_patience(store):
    names = imported(inspect.getsource(sys.modules[type(store).__module__]))
    assert not {f"transforms.storage.{module}" for module in PATIENT} & names


@pytest.mark.parametrize("store", [*stores.STORES, OTHER, MemoryStore()], ids=lambda s: type(s).__name__)
def test_a_store_has_every_method_and_no_other_ones(store):
    public = {name for name in dir(store) if not name.startswith("_")} - {"files", "failures", "reads"}
    assert public == {"schemes", *(name for name in dir(stores.Store) if not name.startswith("_"))} | {
        "atomic_uploads",
        "parallel_reads",
    }


def test_only_stores_and_the_door_know_of_beams_file_systems():
    for path in [*helpers.REPO.glob("transforms/**/*.py"), *helpers.REPO.glob("pipeline/**/*.py")]:
        if "apache_beam.io.filesystems" in imported(path.read_text()):
            assert path.parent.name == "storage"
            assert path.stem in {"clients", "door", "other", "settings"}


@pytest.mark.parametrize(
    ("folder", "others"), [("storage", r"storage|elements|errors"), ("fetching", r"storage|fetching|errors|counters")]
)  # fmt: skip
def test_storage_and_fetching_import_nothing_above_them(folder, others):
    for path in helpers.REPO.glob(f"transforms/{folder}/*.py"):
        for name in imported(path.read_text()):
            assert not name.startswith(("pipeline", "bit")), path
            if name.startswith("transforms."):
                assert re.match(rf"transforms\.({others})\b", name), path


def test_a_job_runs_within_a_store_that_beam_has_never_heard_of(memory, tmp_path):
    helpers.write_shards(tmp_path / "in", (3, 2))
    for name, data in helpers.contents(tmp_path / "in").items():
        memory.files[f"memory://in/{name}"] = data
    helpers.job(f"--input={tmp_path}/in/*", "--batch_size=2", output=tmp_path / "out")
    helpers.job("--input=memory://in/*", "--batch_size=2", output="memory://out")
    written = {name[13:]: data for name, data in memory.files.items() if name.startswith("memory://out/")}
    expected = helpers.contents(tmp_path / "out")
    assert set(written) == set(expected)
    features = [name for name in expected if name.startswith("features-")]
    assert len(features) == 2
    assert all(written[name] == expected[name] for name in features)
    assert verify.main(["memory://out"]) == verify.COMPLETE


def test_a_dry_run_takes_the_rate_of_a_store_from_a_long_read(memory, tmp_path, capsys, monkeypatch):
    helpers.write_shards(tmp_path / "in", (9, 2))
    for name, data in helpers.contents(tmp_path / "in").items():
        memory.files[f"memory://in/{name}"] = data
    read = []
    plain = sample.Sampler._seconds_per_byte

    def slowly(self, uri):
        read.append(uri)
        assert 0 < plain(self, uri) < 1
        return 1.0

    monkeypatch.setattr(sample.Sampler, "_seconds_per_byte", slowly)
    helpers.job("--input=memory://in/*", "--dry_run", output=tmp_path / "out")
    assert read == sorted(memory.files)
    rate = float(re.search(r"rates .*input ([\d.]+)", capsys.readouterr().err)[1])
    assert rate == 0.0  # a second for each byte
    read.clear()
    helpers.job(f"--input={tmp_path}/in/*", "--dry_run", output=tmp_path / "out")
    assert not read


@pytest.mark.parametrize("kind", [listing.FORMAT, "txt", "csv"])
def test_a_slice_of_a_list_in_a_store_costs_little_more_than_its_bytes(memory, monkeypatch, kind):
    monkeypatch.setattr(opening, "_STORE_BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(reading, "_LEAST_BYTES", 1 << 14)
    rows = [b"https://example.com/%06d.jpg\n" % row for row in range(200_000)]
    memory.files["memory://in/list"] = b"".join((b"uri\n", *rows) if kind == "csv" else rows)
    start = memory.files["memory://in/list"].index(rows[100_000])
    end = start + sum(map(len, rows[100_000:110_000]))
    plain, requested = MemoryFile.read_at, []

    def read_at(self, offset, count):
        requested.append(count)
        return plain(self, offset, count)

    monkeypatch.setattr(MemoryFile, "read_at", read_at)
    if kind == listing.FORMAT:
        read = list(listing.read("memory://in/list", start, end))
    else:
        columns = Columns("uri")
        read = list(text_rows.read("memory://in/list", kind, columns, start, end))
    assert [row.uri for row in read[:-1]] == [row.decode().strip() for row in rows[100_000:110_000]]
    assert end - start <= sum(requested) < 1.2 * (end - start)


def test_images_come_through_the_same_store_within_the_limits_of_a_fetch(memory, fetcher):
    memory.files = {"memory://a/fits": b"0123456789", "memory://a/large": b"0123456789!"}
    assert fetcher.fetch("memory://a/fits") == b"0123456789"
    for uri, code in (("memory://a/large", "too_large"), ("memory://a/none", "not_found")):
        with pytest.raises(ItemError) as raised:
            fetcher.fetch(uri)
        assert raised.value.code == code
    memory.reads, memory.failures = 0, iter([Forgetful(), Forgetful()])
    assert fetcher.fetch("memory://a/fits") == b"0123456789"
    assert memory.reads == 3
    memory.reads, memory.failures = 0, itertools.repeat(Forgetful())
    with pytest.raises(ItemError, match=r"^memory fails \(3 attempts\)$") as raised:
        fetcher.fetch("memory://a/fits")
    assert (raised.value.code, memory.reads) == ("http_5xx", 3)
    memory.failures = iter([RuntimeError("a mistake")])
    with pytest.raises(RuntimeError, match="a mistake"):
        fetcher.fetch("memory://a/fits")


def test_what_hangs_or_dawdles_is_left_alone_and_takes_no_more_bytes(memory, monkeypatch):
    ended: list[Exception] = []
    go_on, done = threading.Event(), threading.Event()

    def read(path, into):
        into.write(b"0")
        go_on.wait(60)
        try:
            into.write(b"1")
        except Fault as fault:
            ended.append(fault)
        done.set()

    monkeypatch.setattr(memory, "read", read)
    with pytest.raises(Fault, match="silent too long") as raised:
        door.read_capped("memory://a/b", 100, seconds=60, silence_seconds=0.05)
    assert (raised.value.code, raised.value.transient) == ("timeout", True)
    go_on.set()
    assert done.wait(60)
    assert len(ended) == 1
    go_on.clear()
    with pytest.raises(Fault, match="time ran out"):
        door.read_capped("memory://a/b", 100, seconds=0.05, silence_seconds=60)
    go_on.set()


@pytest.mark.parametrize(
    ("path", "store"),
    [
        ("gs://b/o", "GcsStore"),
        (" GS://b/o", "GcsStore"),
        ("s3://b/o", "S3Store"),
        ("/a/b", "Disk"),
        ("file:///a", "Disk"),
        ("file://gs://b/o", "Disk"),
        ("a gs://b/o", "Disk"),
        ("hdfs://h/a", "OtherStore"),
    ],
)
def test_a_path_belongs_to_one_store(path, store):
    assert type(stores.store_of(path)).__name__ == store


def test_a_local_path_that_looks_like_a_uri_never_leaves_the_disk(monkeypatch, tmp_path):
    """`file:gs://...` in a list that may name only files."""
    monkeypatch.chdir(tmp_path)
    fetcher = Fetcher(FetchSettings(uri_schemes=("file",)))
    with pytest.raises(ItemError, match="there is no such file"):
        fetcher.fetch("file:gs://bucket/object")
    (tmp_path / "gs:/bucket").mkdir(parents=True)
    (tmp_path / "gs:/bucket/object").write_bytes(b"local")
    assert fetcher.fetch("file:gs://bucket/object") == b"local"
    fetcher.close()
