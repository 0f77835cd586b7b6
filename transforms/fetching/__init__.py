"""Fetches the bytes of one image by its URI; `transforms.fetching.fetcher` is the entry point."""
