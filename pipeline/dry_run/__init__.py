"""`--dry_run`: estimates the time, size and cost of a job from a few images of some shards."""
