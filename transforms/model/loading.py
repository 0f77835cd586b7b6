"""A model that is loaded on a thread, while the first images are read and decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from transforms.model.fitting import Fitted


class Loading:
    """Starts loading at once; whoever needs the model waits for it. Thread-safe."""

    def __init__(self, load: Callable[[], Fitted]):
        self._load = load
        self._lock = threading.Lock()
        self._loaded = self._start()
        self._has_failed = False

    def _start(self) -> Future[Fitted]:
        thread = ThreadPoolExecutor(1, "load")
        loaded = thread.submit(self._load)
        thread.shutdown(wait=False)
        return loaded

    def ready(self) -> Fitted:
        """Waits for the model. Raises what loading it raised; the next call then tries again, as Beam keeps this object."""
        with self._lock:
            if self._has_failed:
                self._loaded, self._has_failed = self._start(), False
            loaded = self._loaded
        try:
            return loaded.result()
        except BaseException:
            with self._lock:
                self._has_failed = self._has_failed or self._loaded is loaded
            raise
