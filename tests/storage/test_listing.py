"""Listings and checksums of object stores: page by page, with retries, and errors that say what to do."""

from __future__ import annotations

import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests import faulty_proxy, helpers, stores
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings
from transforms.sources import finding
from transforms.sources.base import BadInput, Cutting, Reading, ReadSettings
from transforms.storage import copying, door, globs, retrying
from transforms.storage.errors import StorageFailed
from transforms.storage.retrying import Limits

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture(scope="module", params=["gs", "s3"])
def behind_proxy(request):
    is_google = request.param == "gs"
    with pytest.MonkeyPatch.context() as patch, {"gs": stores.gcs, "s3": stores.s3}[request.param]() as store:
        endpoint = os.environ["STORAGE_EMULATOR_HOST"] if is_google else store.flags[0].partition("=")[2]
        with faulty_proxy.in_front_of(endpoint) as (proxy, url):
            if is_google:
                patch.setenv("STORAGE_EMULATOR_HOST", url)
            else:
                store = replace(store, flags=(f"--s3_endpoint_url={url}", *store.flags[1:]))
            yield store, proxy


@pytest.fixture
def store(behind_proxy, monkeypatch):
    store, proxy = behind_proxy
    store.use()
    monkeypatch.setattr(retrying, "LIMITS", Limits(60, 0.01, 0.1))
    yield store
    proxy.chosen = lambda method, path: ""


@pytest.fixture
def proxy(store, behind_proxy):
    return behind_proxy[1]


def paths(pattern: str) -> list[str]:
    return [file.path for file in door.match(pattern)]


def is_listing(method: str, path: str) -> bool:
    target, _, query = path.partition("?")
    return method == "GET" and "prefix=" in query and target.rstrip("/").endswith(("/o", stores.BUCKET))


def test_a_page_that_fails_is_asked_for_again_alone(store, proxy, monkeypatch):
    monkeypatch.setattr(globs, "PAGE_OBJECTS", 10)
    folder = store.folder()
    names = [f"{index:02d}.jpg" for index in range(35)]
    stores.upload(folder, dict.fromkeys(names, b"x"))
    pages: list[str] = []

    def refuse_the_third(method: str, path: str) -> str:
        pages.extend([path] * is_listing(method, path))
        return "503" if len(pages) == 3 and is_listing(method, path) else ""

    proxy.chosen = refuse_the_third
    assert paths(f"{folder}/*") == [f"{folder}/{name}" for name in names]
    assert len(pages) == 5
    assert pages[2] == pages[3]
    assert len(set(pages)) == 4


def test_sizes_and_times_are_the_same_in_a_listing_and_for_one_object(store):
    folder = store.folder()
    stores.upload(folder, {"a.jpg": b"four"})
    (listed,), (named,) = door.match(f"{folder}/*"), door.match(f"{folder}/a.jpg")
    assert (listed.path, listed.size_in_bytes) == (named.path, named.size_in_bytes) == (f"{folder}/a.jpg", 4)
    assert listed.last_updated_in_seconds == pytest.approx(named.last_updated_in_seconds, abs=1)
    assert listed.last_updated_in_seconds > 1.7e9


def test_folders_and_odd_names(store):
    folder = store.folder()
    files = {"a[1].jpg": b"1", "a?.jpg": b"2", "a b.jpg": b"3", "sub/ü+%.jpg": b"4", "sub/deep/x.jpg": b"5"}
    stores.upload(folder, {**files, "sub/": b"", "sub/deep/": b""})
    assert stores.contents(folder) == files
    assert paths(f"{folder}/*.jpg") == sorted(f"{folder}/{name}" for name in files if "/" not in name)
    assert paths(f"{folder}/sub/") == [f"{folder}/sub/ü+%.jpg"]
    assert paths(f"{folder}/**/*.jpg") == [f"{folder}/sub/deep/x.jpg", f"{folder}/sub/ü+%.jpg"]
    assert paths(f"{folder}/a?1?.jpg") == [f"{folder}/a[1].jpg"]
    assert paths(f"{folder}/sub/ü+%.jpg") == [f"{folder}/sub/ü+%.jpg"]
    assert paths(f"{folder}/sub") == paths(f"{folder}/none*") == paths(store.root) == []


def test_a_folder_with_objects_that_stand_for_folders_is_copied(store, tmp_path):
    folder = store.folder()
    stores.upload(folder, {"": b"", "variables/": b"", "variables/index": b"i", "saved_model.pb": b"m"})
    local = copying.copy_to_local(folder, str(tmp_path))
    assert stores.contents(local) == {"variables/index": b"i", "saved_model.pb": b"m"}


def test_checksums_are_those_that_the_store_keeps(store, proxy):
    folder = store.folder()
    stores.upload(folder, {"a": b"123456789"})
    crc32c = base64.b64encode((0xE3069283).to_bytes(4, "big")).decode()  # the check value
    md5 = f'"{hashlib.md5(b"123456789").hexdigest()}"'
    refused: list[str] = []

    def refuse_once(method: str, path: str) -> str:
        refused.append(path)
        return "503" if len(refused) == 1 else ""

    proxy.chosen = refuse_once
    assert door.stored_checksum(f"{folder}/a") == (crc32c if folder.startswith("gs") else md5)
    assert len(refused) == 2
    with pytest.raises(
        StorageFailed, match=r"asking for the checksum of .*/none failed: .*it does not exist"
    ):
        door.stored_checksum(f"{folder}/none")


def test_a_missing_bucket_and_a_refusal_are_explained(store, proxy):
    missing = f"{store.root}-not/a/*"
    with pytest.raises(StorageFailed, match=r"^listing .*-not/a/. failed") as raised:
        door.match(missing)
    assert door.explain(missing, raised.value) == (
        f"there is no bucket {stores.BUCKET}-not, or it is not visible from here"
    )
    proxy.chosen = lambda method, path: "403"
    for pattern in (f"{store.root}/a/*", f"{store.root}/a"):
        with pytest.raises(StorageFailed, match=r"^listing ") as raised:
            door.match(pattern)
        assert f"with bucket {stores.BUCKET}" in door.explain(pattern, raised.value) or (
            "no Google credentials were found" in door.explain(pattern, raised.value)
        )


ODD = [
    "a[1].jpg",
    "*.jpg",
    "{0..1}.jpg",
    "a,b.jpg",
    "c#?%20%.jpg",
    " d.jpg ",
    "e\tf.jpg",
    '"g".jpg',
    "h\ni.jpg",
    "[j]/k?.jpg",
]


def test_whatever_a_folder_of_a_bucket_holds_is_one_input(store, tmp_path):
    folder = store.folder()
    # moto's server knows no line breaks in names.
    names = [name for name in ODD if "\n" not in name or store.root.startswith("gs:")]
    images = {name: helpers.encoded(seed) for seed, name in enumerate(names)}
    stores.upload(folder, images)
    found = finding.find([folder], "images", ReadSettings(4))
    assert [file.path for file in found.files] == sorted(f"{folder}/{name}" for name in names)
    cutting = Cutting(ReadSettings(4), 100, None, str(tmp_path / "inputs.txt"))
    cut = found.kind.cut(found.files, cutting)
    (tmp_path / "inputs.txt").write_bytes(cut.listing)
    fetcher = Fetcher(FetchSettings(retries=0))
    with ThreadPoolExecutor(4) as pool:
        reading = Reading("shard", cutting.read, fetch=fetcher.fetch, pool=pool)
        items = [item for source in cut.sources for item in source.items(reading)]
    fetcher.close()
    assert [(item.key.decode(), item.data) for item in items] == [
        (f"{folder}/{name}", images[name]) for name in sorted(names)
    ]


@pytest.mark.filterwarnings("error:::transforms")
def test_names_in_a_bucket_that_look_like_patterns(store):
    folder = store.folder()
    stores.upload(folder, dict.fromkeys(("a[1].jpg", "a,b.jpg", "[j]/k?.jpg", "0.jpg", "c.txt"), b"x"))
    stores.upload(f"{folder}/[x]*", dict.fromkeys(("a.jpg", "b.jpg"), b"x"))

    def find(text):
        return [file.path for file in finding.find([f"{folder}/{text}"], "images", ReadSettings(4)).files]

    assert find("a[1].jpg") == [f"{folder}/a[1].jpg"]
    assert find("a,b.jpg") == [f"{folder}/a,b.jpg"]
    assert find("[j]") == find("[j]/") == find("[j]/k?.jpg") == [f"{folder}/[j]/k?.jpg"]
    assert find("[x]*/b*") == [f"{folder}/[x]*/b.jpg"]
    assert find("[0].jpg") == [f"{folder}/0.jpg"]
    with pytest.raises(BadInput, match="no file matches"):
        find("[z].jpg")
    copied = copying.checksum(f"{folder}/[x]*")
    stores.upload(f"{folder}/[x]*", {"b.jpg": b"y"})
    assert copying.checksum(f"{folder}/[x]*") != copied
