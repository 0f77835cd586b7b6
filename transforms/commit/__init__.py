"""The commit of a shard, its receipt, and the audit and retry of committed shards. The protocols: `claim`, `replace`."""
