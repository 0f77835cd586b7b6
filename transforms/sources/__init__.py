"""The kinds of input: how files of each are cut into shards, read, and known again."""
