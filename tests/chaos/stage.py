"""What a job under chaos depends on: a store behind a proxy, a small disk, an engine."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from tests import engines, faulty_proxy, helpers, stores
from tests.chaos.trouble import Scene
from tests.storage.test_disk_faults import small_disk

# An image a model call, so that a shard takes a while.
_SLOW = (*helpers.TINY, "--image_size=256", "--batch_size=1")
_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def stage(folder: Path, shards: Sequence[int], engine: str, seed: int) -> Iterator[tuple[Scene, list[str]]]:
    """The scene of a job of shards of so many images on 'direct' or 'flink', and the flags of the job but for its engine."""
    offspring = engines.Offspring()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(stores.s3())
        store.use()
        # From here on: the store is not of the job.
        stack.enter_context(mock.patch.dict(os.environ, {**offspring.environment, **_KEYS}))
        pattern = Path(helpers.write_shards(folder / "in", shards))
        target = store.folder()
        stores.upload(target, {path.name: path.read_bytes() for path in sorted(pattern.parent.iterdir())})
        endpoint = next(flag.partition("=")[2] for flag in store.flags if "endpoint" in flag)
        proxy, address = stack.enter_context(faulty_proxy.in_front_of(endpoint, seed))
        disk = folder / "disk"
        stack.enter_context(small_disk(disk, "64m"))
        flags = [*_SLOW, f"--input={target}/{pattern.name}", f"--s3_endpoint_url={address}"]
        scene = Scene(offspring, store, proxy, disk, random.Random(seed), _PROCESSES)
        if engine == "flink":
            scene.cluster = stack.enter_context(engines.flink_cluster(folder / "cluster"))
            scene.engine = scene.cluster.flags
        yield scene, flags
