"""Files of a shard: what is summed on writing is compared on reading."""

import io

import google_crc32c
import pytest

from transforms.commit.files import CheckedStream, FileSummary, FileWriter, is_complete

CHECK = FileSummary("name", 9, "e3069283")  # the check value of CRC-32C: that of "123456789"


def test_the_summary_is_of_all_bytes_that_were_written(tmp_path):
    writer = FileWriter(str(tmp_path / "below" / "file"), "name")
    assert writer.summary() == FileSummary("name", 0, "00000000")
    for part in (b"1234", b"", b"56789"):
        writer.write(part)
    writer.close()
    assert writer.summary() == CHECK
    assert (tmp_path / "below" / "file").read_bytes() == b"123456789"


def test_nothing_is_left_of_a_file_that_is_given_up(tmp_path):
    writer = FileWriter(str(tmp_path / "file"), "name")
    writer.write(b"1234")
    writer.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "difference"),
    [
        (b"123456789", ""),
        (b"12345678", "8 bytes, the receipt says 9"),
        (b"1234567890", "10 bytes, the receipt says 9"),
        (b"123456780", f"CRC-32C {google_crc32c.value(b'123456780'):08x}, the receipt says e3069283"),
        (b"", "0 bytes, the receipt says 9"),
    ],
)
def test_what_was_read_is_compared_with_the_summary(tmp_path, data, difference):
    checked = CheckedStream(io.BytesIO(data))
    assert b"".join(iter(lambda: checked.read(4), b"")) == data
    assert checked.difference(CHECK) == difference
    (tmp_path / "file").write_bytes(data)
    assert is_complete(str(tmp_path / "file"), CHECK) == (not difference)


def test_a_file_that_is_missing_is_not_complete(tmp_path):
    assert not is_complete(str(tmp_path / "none"), CHECK)
