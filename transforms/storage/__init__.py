"""Files by path or URI, local or on any store. `door` is the interface for the rest of the job.

`stores` lists the kinds of store. A store never retries: each operation is one try that succeeds or raises; only parts of
a large upload are sent again by its client. `door` and the streams that it opens (`reading`, `writing`) retry through
`retrying`.
"""
