"""Imports without a search for garbage."""

import gc
import sys

import pytest

from transforms.imports import uncollected

NEW_MODULE = "this"


@pytest.fixture(autouse=True)
def unfrozen(monkeypatch):
    """Nothing stays frozen, and NEW_MODULE is new."""
    monkeypatch.delitem(sys.modules, NEW_MODULE, raising=False)
    assert gc.isenabled()
    yield
    sys.modules.pop(NEW_MODULE, None)
    gc.enable()
    gc.unfreeze()


def test_nothing_is_collected_within_and_what_was_imported_is_set_aside(capsys):
    before = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        __import__(NEW_MODULE)
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_where_nothing_new_was_imported_all_stays_collectable():
    before = gc.get_freeze_count()
    with uncollected():
        import sys as _  # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_a_failing_import_fails_as_without_it_and_collection_goes_on():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), uncollected():
        __import__("no_such_module")
    assert gc.isenabled()


def test_collection_stays_off_where_it_was_off():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_two_at_once_end_with_collection_on():
    first, second = uncollected(), uncollected()
    first.__enter__()
    second.__enter__()
    second.__exit__(None, None, None)
    first.__exit__(None, None, None)
    assert gc.isenabled()
    first, second = uncollected(), uncollected()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gc.isenabled()
