"""The commit of a shard, its receipt, and what can be done with a committed one. The protocol: `claim`, `replace`."""
