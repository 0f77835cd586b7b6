"""How images become pixels."""

from __future__ import annotations

from dataclasses import dataclass

from transforms import cpus
from transforms.imaging.preprocess import Preprocessing


@dataclass(frozen=True)
class DecodeSettings:
    """How images become pixels. `processes` is the number of feeders per process with a model; 0 means one per CPU."""

    preprocessing: Preprocessing
    batch_size: int
    processes: int = 0
    timeout_seconds: float = 60.0  # of one image

    @property
    def processes_here(self) -> int:
        """The number of feeders per process on this machine."""
        return self.processes or cpus.available()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a batch of pixels."""
        side = self.preprocessing.image_size
        return self.batch_size, side, side, 3
