"""How a chunk moves between workers, should an engine ever move one. Importing this module registers the coder.

Each step that emits chunks imports it, so the coder is registered before a graph with that step is built.
"""

from __future__ import annotations

import pickle

from apache_beam import coders

from transforms.elements import EncodedChunk, FeatureChunk, PixelChunk


class ChunkCoder(coders.Coder):
    """Pickles a chunk where a runner must move it; measures it in O(items) where Beam only samples its size.

    Beam's default coder pickles a sample of the elements on every fused hop to estimate their size, which for
    batches of pixels costs tens of milliseconds each.
    """

    def encode(self, value) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes):
        return pickle.loads(encoded)

    def estimate_size(self, value) -> int:
        return value.nbytes + 256 * len(value.items)

    def is_deterministic(self) -> bool:
        return False


for _chunk_type in (EncodedChunk, PixelChunk, FeatureChunk):
    coders.registry.register_coder(_chunk_type, ChunkCoder)
