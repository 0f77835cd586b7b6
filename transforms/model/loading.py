"""A model that is loaded on a thread, while the first images are read and decoded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from transforms.model.fitting import Fitted


class Loading:
    """Starts loading at once; whoever needs the model waits for it."""

    def __init__(self, load: Callable[[], Fitted]):
        thread = ThreadPoolExecutor(1, "load")
        self._loaded = thread.submit(load)
        thread.shutdown(wait=False)

    def ready(self) -> Fitted:
        """Waits for the model. Raises what loading it raised."""
        return self._loaded.result()
