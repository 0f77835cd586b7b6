"""Compressed files: what is read, also in several members; what is cut or damaged; and what is refused by name."""

import bz2
import gzip
import io
import lzma
import zlib

import pytest
from backports import zstd

from transforms.storage import compression, damage, packing

PACKERS = {
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lzma.compress,
    "zstd": zstd.compress,
}
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
    with pytest.raises(damage.DAMAGED):
        opened(packed[: int(len(packed) * at)]).read()


def test_damage_at_the_start_is_met_again(pack):
    stream = opened(pack(DATA)[:10] + b"\xff" * 1000)
    said = []
    for _ in range(2):
        assert compression.head(stream, 100) == b""
        stream.seek(0)
        with pytest.raises(damage.DAMAGED) as caught:
            stream.read()
        said.append(str(caught.value))
        stream.seek(0)
    assert said[0] == said[1]
    assert "early" not in said[0]


@pytest.mark.parametrize("junk", [b"junk behind it", b"\0\0\0junk"])
def test_what_is_behind_the_last_member_is_damage(pack, junk):
    stream = opened(pack(DATA) + junk)
    assert compression.head(stream, 2 * len(DATA)) == DATA
    with pytest.raises(damage.DAMAGED):
        opened(pack(DATA) + junk).read()


def test_a_flipped_bit_is_noticed(pack):
    packed = bytearray(pack(DATA))
    packed[len(packed) // 2] ^= 16
    # zstd's checksum is optional: as in the tool, which writes it
    if pack is zstd.compress:
        packed = bytearray(zstd.compress(DATA, options={zstd.CompressionParameter.checksum_flag: 1}))
        packed[len(packed) // 2] ^= 16
    with pytest.raises(damage.DAMAGED):
        opened(bytes(packed)).read()


@pytest.mark.parametrize("data", [b"", b"a\n", b"BZh", b"http://a/b\n", b"\x1f\x9d\x90\0\0\0\0\0" * 9])
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
    ],
)
def test_what_is_not_read_is_named_by_its_first_bytes(head, name):
    with pytest.raises(packing.NotRead, match=f"packed as {name}.*pack it with gzip"):
        packing.check_bytes(head[: packing.HEAD_BYTES])


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
