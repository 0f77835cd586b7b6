"""Compressed files: what is read, also in several members; what is cut or damaged; and what is refused by name."""

import bz2
import gzip
import io
import lzma
import zlib

import pytest
from backports import zstd

from transforms.storage import compression, packing
from transforms.storage.damage import DAMAGED, BeyondLimit

PACKERS = {
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


def large_dictionary(filter):
    return [{"id": filter, "preset": 0, "dict_size": 1 << 30}]


def window_frame(log, blocks):
    """A frame of zstd with a window of 2 ** log bytes, which does not say how long it is, as from a pipe. RFC 8878, 3.1.1."""
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([log - 10 << 3])
    for at, block in enumerate(blocks):
        is_last = at == len(blocks) - 1
        frame += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return frame


DATA = b"".join(b"row %06d\n" % number for number in range(60_000))


@pytest.fixture(params=PACKERS)
def pack(request):
    return PACKERS[request.param]


def opened(data):
    return compression.decompressed(io.BytesIO(data))


def test_members_one_after_the_other_are_one_stream(pack):
    parts = [DATA[:300_000], b"", DATA[300_000:300_001], DATA[300_001:]]
    for padding in (b"", bytes(512)):
        stream = opened(b"".join(map(pack, parts)) + padding)
        assert stream.read() == DATA
        assert compression.is_compressed(stream)


def test_it_moves_forward_and_back(pack):
    stream = opened(pack(DATA[:300_000]) + pack(DATA[300_000:]))
    for at in (300_000, 5, 599_990, 299_999, 0):
        assert stream.seek(at) == at
        assert (stream.read(20), stream.tell()) == (DATA[at : at + 20], min(at + 20, len(DATA)))
    assert stream.seek(len(DATA) + 5) == len(DATA)


@pytest.mark.parametrize("at", [0.25, 0.99])
def test_what_precedes_a_cut_is_read_and_then_it_raises(pack, at):
    packed = pack(DATA)
    stream = opened(packed[: int(len(packed) * at)])
    head = compression.head(stream, 2 * len(DATA))
    assert DATA.startswith(head)
    assert at < 0.9 or len(head) > len(DATA) // 3
    with pytest.raises(DAMAGED):
        opened(packed[: int(len(packed) * at)]).read()


def test_damage_at_the_start_is_met_again(pack):
    stream = opened(pack(DATA)[:10] + b"\xff" * 1000)
    said = []
    for _ in range(2):
        assert compression.head(stream, 100) == b""
        stream.seek(0)
        with pytest.raises(DAMAGED) as caught:
            stream.read()
        said.append(str(caught.value))
        stream.seek(0)
    assert said[0] == said[1]
    assert "early" not in said[0]


@pytest.mark.parametrize("junk", [b"junk behind it", b"\0\0\0junk"])
def test_what_is_behind_the_last_member_is_damage(pack, junk):
    stream = opened(pack(DATA) + junk)
    assert compression.head(stream, 2 * len(DATA)) == DATA
    with pytest.raises(DAMAGED):
        opened(pack(DATA) + junk).read()


def test_a_flipped_bit_is_noticed(pack):
    packed = bytearray(pack(DATA))
    packed[len(packed) // 2] ^= 16
    # zstd's checksum is optional: as in the tool, which writes it
    if pack is zstd.compress:
        packed = bytearray(zstd.compress(DATA, options={zstd.CompressionParameter.checksum_flag: 1}))
        packed[len(packed) // 2] ^= 16
    with pytest.raises(DAMAGED):
        opened(bytes(packed)).read()


@pytest.mark.parametrize(
    "data",
    [b"", b"a\n", b"BZh", b"http://a/b\n", b"\x1f\x9d\x90\0\0\0\0\0" * 9, b"]\0\0\0\0\0\0\0x", b"]\0\0junk"],
)
def test_plain_bytes_are_left_alone(data):
    packing.check_bytes(data)
    assert opened(data).read() == data
    assert not compression.is_compressed(opened(data))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (zlib.compress(DATA), "zlib"),
        (zlib.compress(DATA, 1), "zlib"),
        (zlib.compress(b"/a/few/rows.jpg\n"), "zlib"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "lz4"),
        (b"\xff\x06\0\0sNaPpY\1", "snappy"),
        (b"\x1f\x9d\x90abcdef", "compress"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "zip"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z"),
        *((lzma.compress(DATA, lzma.FORMAT_ALONE, preset=preset), "lzma") for preset in (0, 6, 9)),
        (lzma.compress(b"/a.jpg\n", lzma.FORMAT_ALONE), "lzma"),
        (lzma.compress(b"/a.jpg\n", lzma.FORMAT_ALONE, filters=large_dictionary(lzma.FILTER_LZMA1)), "lzma"),
    ],
)
def test_what_is_not_read_is_named_by_its_first_bytes(head, name):
    with pytest.raises(packing.NotRead, match=f"packed as {name}.*pack it with gzip"):
        packing.check_bytes(head[: packing.HEAD_BYTES])


@pytest.mark.parametrize("log", [27, 28, 30, 31])
def test_every_window_that_zstd_writes_is_read(log):
    stream = opened(window_frame(log, [b"/a.jpg\n", b"/b.jpg\n"]))
    packing.check_bytes(window_frame(log, [b"/a.jpg\n"]))
    assert stream.read() == b"/a.jpg\n/b.jpg\n"


@pytest.mark.parametrize(
    ("large", "name"),
    [
        (lzma.compress(b"/b.jpg\n", filters=large_dictionary(lzma.FILTER_LZMA2)), "xz"),
        (window_frame(32, [b"/b.jpg\n"]), "zstd"),
        (window_frame(41, [b"/b.jpg\n"]), "zstd"),
    ],
)
def test_what_takes_too_much_memory_is_told_from_damage(large, name):
    told = f"the {name} data takes more memory .*pack it again"
    with pytest.raises(packing.NotRead, match=told):
        packing.check_bytes(large)
    stream = opened(PACKERS[name](b"/a.jpg\n") + large)
    assert compression.head(stream, 7) == b"/a.jpg\n"
    with pytest.raises(BeyondLimit, match=told):
        stream.read()


@pytest.mark.parametrize("suffix", ["deflate", "lz4", "snappy", "Z", "zip", "7z", "br", "lzma"])
def test_what_is_not_read_is_named_by_its_suffix(suffix):
    with pytest.raises(packing.NotRead, match="is packed as"):
        packing.check_name(f"/data/list.txt.{suffix}")


@pytest.mark.parametrize("data", [b"plain", PACKERS["zstd"](b"x")])
def test_a_name_that_says_too_much_is_refused_but_for_gzip(data):
    for suffix in (".bz2", ".xz", ".zst", ".zstd"):
        if data == b"plain":
            with pytest.raises(ValueError, match="its name says that it is compressed"):
                packing.check_is_as_named(f"a.txt{suffix}", data)
        else:
            packing.check_is_as_named(f"a.txt{suffix}", data)  # another compression, which is read as well
        packing.check_is_as_named(f"a.txt{suffix}", b"")
    packing.check_is_as_named("a.txt.gz", data)


@pytest.mark.parametrize("suffix", ["", *compression.SUFFIXES])
def test_a_suffix_that_is_read_is_not_refused(suffix):
    packing.check_name(f"gs://bucket/x.zip/list.txt{suffix}")
