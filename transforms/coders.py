"""How a chunk is serialized, should an engine ever move one between workers. Importing this module registers the coder.

Each step that emits chunks imports it, so the coder is registered before a graph with that step is built.
"""

from __future__ import annotations

import pickle

from apache_beam import coders

from transforms.elements import EncodedChunk, FeatureChunk, PixelChunk


class ChunkCoder(coders.Coder):
    """Pickles a chunk when a runner must move it; estimates its size in O(items) when Beam only samples sizes.

    Beam's default coder pickles a sample of the elements on every fused hop to estimate their size, which takes
    tens of milliseconds per batch of pixels.
    """

    def encode(self, value) -> bytes:
        """Called only where a runner breaks the fused stage. Waits for outputs that are pending."""
        value = value.resolved() if isinstance(value, FeatureChunk) else value
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes):
        """The chunk that `encode` pickled."""
        return pickle.loads(encoded)

    def estimate_size(self, value) -> int:
        """Bytes: the arrays or encoded images, and a flat 256 per item."""
        return value.nbytes + 256 * len(value.items)

    def is_deterministic(self) -> bool:
        """False, so that Beam never uses a chunk as a key."""
        return False


for _chunk_type in (EncodedChunk, PixelChunk, FeatureChunk):
    coders.registry.register_coder(_chunk_type, ChunkCoder)
