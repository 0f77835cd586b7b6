"""data: URLs: their bytes, and that they show up nowhere in full."""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from transforms.elements import Encoded
from transforms.errors import ItemError
from transforms.fetching import data_urls
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings
from transforms.fetching.uris import public_uri
from transforms.sources import uri_list
from transforms.sources.base import Reading, ReadSettings

DATA = bytes(range(256)) + b"\xfb\xff"
BASE64 = base64.b64encode(DATA).decode()
KEY = f"data:sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def fetcher():
    fetcher = Fetcher(FetchSettings(max_bytes=1 << 20))
    yield fetcher
    fetcher.close()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f" DATA:IMAGE/PNG;BASE64,{BASE64} ",
        f"data:;base64,{BASE64}",
        f"data:image/png;charset=utf-8; base64,{BASE64}",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{quote(BASE64, safe='')}",
        f"data:image/png;base64,{BASE64[:7]}\n {BASE64[7:]}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(DATA).decode()}",
        f"data:image/png;base64,{BASE64}#fragment",
        f"data:image/png,{quote(DATA)}",
        f"data:,{''.join(f'%{byte:02x}' for byte in DATA)}",
    ],
)
def test_urls_that_hold_an_image(fetcher, url):
    assert fetcher.fetch(url) == DATA
    assert public_uri(url) == KEY


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png;base64",
        "data:;base64,A",
        "data:;base64,AAAA!",
        "data:;base64,AA=A",
        "data:;base64,\u2603",
    ],
)
def test_urls_that_hold_none(fetcher, url):
    with pytest.raises(ItemError) as raised:
        fetcher.fetch(url)
    assert raised.value.code == "bad_uri"
    assert public_uri(url).startswith("data:malformed:sha256:")
    assert public_uri(public_uri(url)) == public_uri(url)


def test_the_limit_of_bytes(fetcher):
    fits = base64.b64encode(bytes(1 << 20)).decode()
    assert len(fetcher.fetch(f"data:;base64,{fits}")) == 1 << 20
    with pytest.raises(ItemError) as raised:
        fetcher.fetch(f"data:;base64,{base64.b64encode(bytes((1 << 20) + 1)).decode()}")
    assert raised.value.code == "too_large"
    assert len(str(raised.value)) < 100


def test_text_that_is_no_escape(fetcher):
    assert data_urls.decode("data:,100%&%zz\udce9\u00fc") == b"100%&%zz\xe9\xc3\xbc"


def test_rows_with_data_urls_have_short_keys_and_messages(tmp_path, fetcher):
    long = "A" * (12 << 20)
    rows = [
        f"data:image/png;base64,{BASE64}",
        f"data:image/png;base64,{long}",
        f"data:image/png;base64,{long}!",
    ]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(rows) + "\n")
    settings = ReadSettings(2)
    (source,) = uri_list.slices(str(path), "txt", settings, 10)
    with ThreadPoolExecutor(2) as pool:
        items = list(source.items(Reading("list", settings, fetch=fetcher.fetch, pool=pool)))
    assert items[0] == Encoded(KEY.encode(), 0, DATA)
    assert [item.code for item in items[1:]] == ["too_large", "bad_uri"]
    assert [item.key.rpartition(b":")[0] for item in items] == [
        b"data:sha256",
        b"data:sha256",
        b"data:malformed:sha256",
    ]
    assert all(len(str(item)) < 400 for item in items[1:])
