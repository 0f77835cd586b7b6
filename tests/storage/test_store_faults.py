"""A job from and to an object store that answers 429, 500, 503, too slowly, in part, or not at all."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest

from pipeline import run as running
from pipeline import verify
from pipeline.main import main
from tests import faulty_proxy, helpers, stores
from transforms.storage import door, opening, retrying
from transforms.storage.retrying import Limits

pytestmark = pytest.mark.xdist_group("stores")


class Job:
    """A job within a store behind a faulty proxy, and the output of an undisturbed run."""

    def __init__(self, store: stores.Store, proxy: faulty_proxy.FaultyProxy):
        self.store, self.proxy = store, proxy
        self.input = store.folder()
        bad = helpers.example({"image/encoded": b"no image"})
        files = {}
        for index, seeds in enumerate(([0, 1, 2], [3, None], [4, 5])):
            examples = [bad if seed is None else helpers.image_example(seed) for seed in seeds]
            framed = b"".join(helpers.tfrecord.frame(example) for example in examples)
            files[f"in-{index}.tfrecord"] = framed
        stores.upload(self.input, files)
        self.whole = self.contents(self.run())

    def run(self, output: str = "", expect: int = 0) -> str:
        output = output or self.store.folder()
        flags = [*self.store.flags, *helpers.TINY, "--batch_size=2", f"--input={self.input}/in-*"]
        code = main([*flags, f"--output={output}"])
        self.proxy.probability, self.proxy.chosen = 0.0, lambda method, path: ""
        assert code == expect, f"exit code {code}, expected {expect}"
        return output

    def contents(self, output: str) -> dict[str, bytes]:
        return stores.contents(output)


@pytest.fixture(scope="module", params=["s3", "gs"])
def job(request):
    with pytest.MonkeyPatch.context() as patch, {"gs": stores.gcs, "s3": stores.s3}[request.param]() as store:
        on_google = request.param == "gs"
        endpoint = os.environ["STORAGE_EMULATOR_HOST"] if on_google else store.flags[0].partition("=")[2]
        with faulty_proxy.in_front_of(endpoint, seed=1) as (proxy, url):
            if on_google:
                patch.setenv("STORAGE_EMULATOR_HOST", url)
            else:
                store = replace(store, flags=(f"--s3_endpoint_url={url}", *store.flags[1:]))
            store.use()
            yield Job(store, proxy)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(120, 0.01, 0.1))
    monkeypatch.setattr(retrying, "_BEFORE_THE_START_SECONDS", 120)


def test_blocks_read_in_parallel_from_a_store_in_trouble_are_those_of_the_file(job, monkeypatch):
    monkeypatch.setattr(opening, "_STORE_BLOCK_BYTES", 10_000)
    data = os.urandom(300_001)
    path = f"{job.store.folder()}/file"
    door.write_atomic(path, data)
    job.proxy.hit.clear()
    job.proxy.probability = 0.3
    with door.open_unbuffered(path) as stream:
        read = b"".join(iter(stream.read_block, b""))
    job.proxy.probability = 0.0
    assert read == data
    assert job.proxy.hit


def test_a_store_in_trouble_changes_no_byte(job):
    job.proxy.hit.clear()
    job.proxy.probability = 0.2 if job.store.root.startswith("s3") else 0.08
    output = job.run()
    assert job.contents(output) == job.whole
    assert sum(job.proxy.hit.values()) > 3
    assert verify.main([*job.store.flags, output]) == verify.COMPLETE


@pytest.mark.parametrize("fault", ["truncated", "503", "answer lost"])
def test_one_fault_in_each_request_for_an_object_changes_no_byte(job, fault):
    failed_once = set()

    def once(method: str, path: str) -> str:
        what = (method, path.partition("?")[0])
        if what in failed_once or "/o" not in path + "/o" or len(failed_once) > 12:
            return ""
        failed_once.add(what)
        return fault

    job.proxy.chosen = once
    output = job.run()
    assert job.contents(output) == job.whole


def test_a_store_that_refuses_ends_the_job_and_what_is_committed_is_whole(job, capsys):
    def refuse(method: str, path: str) -> str:
        is_target = method in ("PUT", "POST") and "00001-of-00003" in path
        return "403" if is_target and ("claim" in path or "resumable" in path) else ""

    job.proxy.chosen = refuse
    output = job.run(expect=1)
    said = capsys.readouterr().err
    assert re.search(r"(creating|writing) \S+/.tmp/00001-of-00003-\S+ failed: ", said)
    files = job.contents(output)
    assert "receipts/00001-of-00003.json" not in files
    committed = {name: data for name, data in files.items() if not name.startswith(".tmp/")}
    assert all(job.whole[name] == data for name, data in committed.items())
    assert job.contents(job.run(output)) == job.whole


def test_an_input_that_always_breaks_off_is_never_taken_for_a_short_one(job, monkeypatch, capsys):
    monkeypatch.setattr(retrying, "LIMITS", Limits(3, 0.01, 0.1))

    def cut(method: str, path: str) -> str:
        is_target = method == "GET" and "in-2.tfrecord" in path and "alt=json" not in path
        return "truncated" if is_target and planned else ""

    output = job.store.folder()
    planned: list[bool] = []
    plain = running.run

    def run(*arguments):
        planned.append(True)
        return plain(*arguments)

    monkeypatch.setattr(running, "run", run)
    job.proxy.chosen = cut
    job.run(output, expect=1)
    assert "in-2.tfrecord failed" in capsys.readouterr().err
    assert "receipts/00002-of-00003.json" not in job.contents(output)
    monkeypatch.undo()
    assert job.contents(job.run(output)) == job.whole
