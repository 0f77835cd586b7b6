"""`--dry_run`: from a few images of some shards to what the whole job would take."""
