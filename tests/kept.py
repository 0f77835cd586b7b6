"""What is kept from job to job of a process, or within a job, as it would be the same again."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import types
from collections.abc import Iterator

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core


@contextlib.contextmanager
def looks_of_beam() -> Iterator[None]:
    """Beam looks at the same functions and flags hundreds of times per job, half of a small job's time."""
    look, parse = core.get_function_args_defaults, PipelineOptions.__init__
    look_once, parsed = functools.lru_cache(4096)(look), {}

    def get_function_args_defaults(function):
        if isinstance(function, types.MethodType) and inspect.isfunction(function.__func__):
            names, defaults = look_once(function.__func__)
            return names[1:], list(defaults)
        return look(function)

    def __init__(options, flags=None, **kwargs):
        key = None if flags is None else (type(options), *flags)
        if kwargs or key is None or isinstance(flags, str):
            return parse(options, flags, **kwargs)
        if key in parsed:
            logging.basicConfig()
            vars(options).update(copy.deepcopy(parsed[key]), _flags=flags)
            return None
        parse(options, flags)
        parsed[key] = copy.deepcopy({**vars(options), "_flags": None})
        return None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core, "get_function_args_defaults", get_function_args_defaults)
        patched.setattr(PipelineOptions, "__init__", __init__)
        yield
