"""Ledger lines, and which failures a retry processes."""

import json
from dataclasses import replace

import pytest

from transforms.commit import ledger
from transforms.elements import Failure

FAILURE = Failure(b"k\xff", 3, "fetch", "not_found", "nothing at /a.jpg")


def test_a_line_holds_the_documented_fields_whatever_bytes_the_key_has():
    raw = ledger.encode(FAILURE)
    assert raw.endswith(b"\n")
    values = json.loads(raw)
    assert tuple(values) == ledger.FIELDS
    assert values["key"] == r"k\xff"
    assert values["stage"] in ledger.STAGES
    assert ledger.parse(raw) == ledger.Line(3, "not_found", raw)


@pytest.mark.parametrize("status", [404, 503])
def test_the_status_of_an_answer_is_a_number(status):
    values = json.loads(ledger.encode(replace(FAILURE, http_status=status)))
    assert tuple(values) == (*ledger.FIELDS, *ledger.OPTIONAL)
    assert values["http_status"] == status


@pytest.mark.parametrize("raw", [b"{", b"{}", b"[]", b"3", b"\xff"])
def test_what_is_no_line_is_an_error(raw):
    with pytest.raises((ValueError, KeyError, TypeError)):
        ledger.parse(raw)


def test_what_holds_no_record_cannot_be_tried_again():
    lines = [ledger.Line(0, code, b"") for code in ("not_found", "damaged_record", "truncated")]
    assert [line.can_be_retried for line in lines] == [True, False, True]
    assert ledger.retriable({"not_found": 2, "damaged_record": 5, "truncated": 1}) == 3
