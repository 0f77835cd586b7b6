"""Tar archives against Python's tarfile and GNU tar, and what is left of damaged ones."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tarfile

import pytest

from transforms.records import tar, tar_headers
from transforms.records.tar import Member
from transforms.records.tfrecord import Damage

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
HAS_GNU_TAR = b"GNU tar" in subprocess.run(["tar", "--version"], capture_output=True).stdout
SIZES = (0, 1, 500, 511, 512, 513, 3_000, 40_000, 1_500_000)


def archive(members, format="pax", mtime=1.5, name="content"):
    """A tar of (name, content) or TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[format]) as file:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = None
            if not isinstance(member, tarfile.TarInfo):
                info.size, info.mtime, data = len(member[1]), mtime, io.BytesIO(member[1])
            file.addfile(info, data)
    return out.getvalue()


def read(content, wants=lambda name: True):
    return list(tar.read(io.BytesIO(content), wants))


def named(entries):
    return [(one.name, one.data) for one in entries if isinstance(one, Member)]


def damage(entries):
    return [one for one in entries if isinstance(one, Damage)]


@pytest.fixture(scope="module")
def members():
    source = random.Random(0)
    return [(f"{number:03d}.jpg", source.randbytes(size)) for number, size in enumerate(SIZES)]


@pytest.mark.parametrize("format", FORMATS)
def test_members_with_their_offsets(members, format):
    content = archive(members, format)
    found = read(content)
    assert named(found) == members
    assert not damage(found)
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        assert [one.offset for one in found] == [info.offset for info in file]
    assert read(content, lambda name: False) == [one._replace(data=None) for one in found]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_long_names_and_those_beyond_ascii(format):
    names = ["a" * 99, "b" * 100, "c" * 101, "d/" * 200 + "e.jpg", "é" * 80 + ".jpg", "bad\udcff.jpg"]
    members = [(name, name.encode("utf-8", "surrogateescape")) for name in names]
    assert named(read(archive(members, format))) == members


def test_a_path_in_two_parts():
    members = [("f" * 120 + "/" + "g" * 90, b"x")]
    assert named(read(archive(members, "ustar"))) == members


def special(name, kind, **more):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in more.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize("format", FORMATS)
def test_folders_are_none_and_what_has_no_content_says_why(format):
    content = archive(
        [
            special("a", tarfile.DIRTYPE),
            ("a/0.jpg", b"0"),
            special("a/1.jpg", tarfile.LNKTYPE, linkname="a/0.jpg"),
            special("a/2.jpg", tarfile.SYMTYPE, linkname="0.jpg"),
            special("a/3.jpg", tarfile.FIFOTYPE),
            special("a/4.jpg", tarfile.CHRTYPE),
            ("a/5.jpg", b"5"),
        ],
        format,
    )
    found = read(content)
    assert named(found) == [
        ("a/0.jpg", b"0"),
        *((f"a/{n}.jpg", None) for n in (1, 2, 3, 4)),
        ("a/5.jpg", b"5"),
    ]
    assert [one.problem[:18] for one in found[1:5]] == ["is a link, without"] * 2 + ["is not a plain fil"] * 2


@pytest.mark.skipif(not HAS_GNU_TAR, reason="tar is not GNU's")
@pytest.mark.parametrize("format", ["gnu", "pax", "posix-0.0", "posix-0.1", "v7", "ustar", "oldgnu"])
def test_what_gnu_tar_writes_sparse_files_included(tmp_path, format):
    for name in ("a.jpg", "z.jpg"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    with open(
        tmp_path / "m.jpg", "wb"
    ) as file:  # many pieces, which GNU's own format describes in more blocks
        for piece in range(40):
            file.seek(piece * 100_000)
            file.write(b"piece")
    has_holes = format not in ("v7", "ustar")
    flags = [f"--format={format.partition('-')[0]}", *(["--sparse"] if has_holes else [])]
    if "-" in format:
        flags.append(f"--sparse-version={format.partition('-')[2]}")
    command = ["tar", *flags, "-cf", "x.tar", "a.jpg", "m.jpg", "z.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    first, middle, end = read((tmp_path / "x.tar").read_bytes())
    assert (first.name, middle.name, end.name) == ("a.jpg", "m.jpg", "z.jpg")
    assert (first.data, end.data) == (b"a.jpg" * 100, b"z.jpg" * 100)
    if middle.problem:
        assert (middle.data, middle.problem[:16]) == (None, "is a sparse file")
    else:
        assert middle.data == (tmp_path / "m.jpg").read_bytes()
    assert bool(middle.problem) <= has_holes


def test_archives_in_a_row_are_read_on(members):
    content = archive(members[:3]) + archive(members[3:], "gnu")
    found = read(content)
    assert named(found) == members
    assert not damage(found)
    assert read(archive([])) == []


def test_a_member_beyond_the_limit_is_not_held(members, monkeypatch):
    monkeypatch.setattr(tar_headers, "MAX_MEMBER_BYTES", 2_999)
    found = read(archive(members))
    assert [one.data is None for one in found] == [size > 2_999 for size in SIZES]
    assert found[-1].problem == "has 1500000 bytes, more than 2999"


@pytest.mark.parametrize("size", [1 << 29, 1 << 40])
def test_a_header_that_lies_about_its_size_costs_itself_and_no_memory(members, size):
    info = tarfile.TarInfo("liar.jpg")
    info.size = size
    lying = info.tobuf(tarfile.GNU_FORMAT)
    found = read(
        archive(members[:3])[:-10240].rstrip(b"\0").ljust(512 * 6, b"\0") + lying + archive(members[3:])
    )
    assert named(found)[-6:] == members[3:]
    assert "liar.jpg" not in dict(named(found))
    assert damage(found)


# damage


def spans(content):
    """Where each member begins and ends, its padding and what extends its header included."""
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        return [(i.offset, i.offset_data + -(-i.size // 512) * 512) for i in file]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("victim", range(len(SIZES)))
def test_a_flipped_bit_in_a_header_costs_one_member(members, format, victim):
    content = bytearray(archive(members, format, mtime=1))
    begin, end = spans(bytes(content))[victim]
    content[begin + 100] ^= 1
    found = read(bytes(content))
    assert named(found) == members[:victim] + members[victim + 1 :]
    last = victim == len(SIZES) - 1
    stop = len(content) if last else end
    assert damage(found) == [Damage(begin, stop - begin, tar.NO_HEADER)]


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_an_archive_that_was_cut(members, zeros):
    content = archive(members)
    starts, ends = zip(*spans(content), strict=True)
    for victim in (0, 1, 4, 8):
        found = read(content[: ends[victim]] + bytes(512 * zeros))
        assert named(found) == members[: victim + 1]
        expected = [] if zeros else [Damage(ends[victim], 0, tar.NO_END)]
        assert damage(found) == expected, "a cut at the border of a member is told by the missing end mark"
        cut = ends[victim] - 512 - (SIZES[victim] > 512) * 100
        if SIZES[victim]:
            found = read(content[:cut])
            assert named(found) == members[:victim]
            assert damage(found) == [Damage(starts[victim], cut - starts[victim], tar.CUT)]
    assert read(content[:100]) == [Damage(0, 100, tar.NO_HEADER)]
    assert read(b"") == [Damage(0, 0, tar.NO_END)]


@pytest.mark.parametrize("size", [1, 512, 100_000, 3_000_000])
def test_garbage_between_members_costs_none(members, size):
    content = archive(members)
    at = spans(content)[3][0]
    found = read(content[:at] + os.urandom(size) + content[at:])
    assert named(found) == members
    assert damage(found) == [Damage(at, size, tar.NO_HEADER)]


@pytest.mark.parametrize("missing", [1, 300, 512, 2_000])
def test_missing_bytes_cost_one_member(members, missing):
    content = archive(members)
    begin, end = spans(content)[6]
    found = read(content[: end - 2_100] + content[end - 2_100 + missing :])
    assert named(found) == members[:6] + members[7:]
    assert damage(found) == [Damage(begin, end - begin - missing, tar.MISPLACED)]


def test_zeros_over_some_members_are_damage_not_an_end(members):
    content = bytearray(archive(members))
    begin, end = spans(bytes(content))[7]
    content[begin:end] = bytes(end - begin)
    found = read(bytes(content))
    assert named(found) == members[:7] + members[8:]
    assert damage(found) == [Damage(begin, end - begin, tar.ZEROS)]
    long_tail = read(archive(members) + bytes(512 * 200))
    assert named(long_tail) == members
    assert [one.reason for one in damage(long_tail)] == [tar.ZEROS]


def test_nothing_but_garbage():
    for content in (os.urandom(3_000_000), b"text " * 1000, b"ustar" * 100_000):
        assert read(content) == [Damage(0, len(content), tar.NO_HEADER)]


def test_a_cut_name_is_not_taken_for_a_name():
    """Behind a damaged long name stands a header of its own, whose name is the beginning of the long one."""
    members = [("a.jpg", b"a"), ("b" * 150 + ".jpg", b"b"), ("c.jpg", b"c")]
    for format in ("gnu", "pax"):
        content = bytearray(archive(members, format))
        content[spans(bytes(content))[1][0] + 130] ^= 1
        found = read(bytes(content))
        assert named(found) == [members[0], members[2]]
        assert len(damage(found)) == 1


def test_a_compressed_archive_that_was_cut_ends_there(members):
    whole = gzip.compress(archive(members))
    for cut in (len(whole) // 2, len(whole) - 1, 30):
        found = list(tar.read(gzip.GzipFile(fileobj=io.BytesIO(whole[:cut])), lambda name: True))
        assert named(found) == members[: len(named(found))]
        *_, last = found
        assert isinstance(last, Damage)
        assert "the compressed file is damaged" in last.reason
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    *found, last = tar.read(gzip.GzipFile(fileobj=io.BytesIO(bytes(damaged))), lambda name: True)
    assert isinstance(last, Damage)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_nothing_intact_is_lost(format, seed):
    source = random.Random(seed)
    members = [
        (
            f"{number:03d}.{source.choice(('jpg', 'json'))}",
            source.randbytes(source.choice((5, 600, 9_000))),
        )
        for number in range(30)
    ]
    whole = archive(members, format)
    content, origin = bytearray(whole), list(range(len(whole)))  # of each byte
    for _ in range(source.randint(1, 4)):
        at, count = source.randrange(max(1, len(content) - 10_240)), source.choice((1, 512, 700, 5_000))
        match source.choice(("flip", "cut", "insert", "delete")):
            case "flip":
                content[at] ^= 1 << source.randrange(8)
                origin[at] = -1
            case "cut":
                del content[at:], origin[at:]
                break
            case "insert":
                content[at:at], origin[at:at] = source.randbytes(count), [-1] * count
            case "delete":
                del content[at : at + count], origin[at : at + count]
    found = read(bytes(content))
    places = {at: place for place, at in enumerate(origin)}
    intact = [
        member
        for member, (begin, end) in zip(members, spans(whole), strict=True)
        if begin in places and origin[places[begin] : places[begin] + end - begin] == list(range(begin, end))
    ]
    lost = [name for name, _ in intact if (name, dict(intact)[name]) not in named(found)]
    assert not lost
    offsets = [one.offset for one in found]
    assert offsets == sorted(offsets)
    for one in damage(found):
        assert 0 <= one.offset <= one.offset + one.length <= len(content)
