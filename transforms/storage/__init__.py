"""Files by path or URI, local or on any store. `door` is what the rest of the job opens.

`stores` lists the kinds of store. They have no patience: each operation is one try that either succeeds or raises; only parts
of a large upload are sent again by their clients. `door` and the streams that it opens (`reading`, `writing`) have it, by
way of `retrying`.
"""
