"""Files by path or URI, local or on any store: `door` is what the rest of the job opens."""
