"""Calls made ahead on a pool of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def in_order(
    pool: Executor, call: Callable[[Argument], Result], arguments: Iterable[Argument], ahead: int
) -> Generator[Result, None, None]:
    """`call` of each argument, in order, with at most `ahead` + 1 calls that are made and not yet returned."""
    pending: deque[Future[Result]] = deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(call, argument))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
