"""How the bytes of one image come from a URI; `transforms.fetching.fetcher` is the door."""
