"""Which pictures of an output are alike, by their bytes and by the cosine similarity of their embeddings."""
