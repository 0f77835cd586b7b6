"""Makes the output folder ready for a plan: the only step before the run that writes there."""

from __future__ import annotations

import errno
import os

from apache_beam.io.filesystem import BeamIOError

from pipeline.flags import RequestError
from pipeline.plan import Plan
from transforms.commit import replace as replacing
from transforms.commit import request, retry_failures
from transforms.commit.layout import Layout
from transforms.storage import door


def prepare(plan: Plan) -> None:
    """Makes the output folder ready for the run: the only step of planning that writes.

    Raises RequestError if the folder is not writable, or in use by another job.
    """
    layout = plan.layout
    note = layout, plan.fingerprint, len(plan.shards), plan.listing
    try:
        if plan.state.stale:  # nothing is deleted unless the folder is writable
            _check_writable(layout)
        if plan.todo and layout.request not in plan.state.stale:
            request.enter(*note)
        # Receipts first: from then on nothing counts as done.
        door.delete([path for path in plan.state.stale if path.endswith(".json")])
        door.delete([path for path in plan.state.stale if not path.endswith(".json")])
        for receipt in plan.state.begun:
            replacing.settle(layout, receipt)
        if plan.state.retried:
            retry_failures.write_marker(layout, plan.todo)
        if plan.listing is not None and (plan.todo or not door.exists(layout.listing)):
            door.write_atomic(layout.listing, plan.listing)
        if plan.class_names is not None and door.read_if_there(layout.class_names) != plan.class_names:
            door.write_atomic(layout.class_names, plan.class_names)
        if layout.request in plan.state.stale:
            request.enter(*note)
    except request.OutputInUse as error:
        raise RequestError(str(error)) from error
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        raise RequestError(
            f"--output={layout.folder} cannot be written to: {door.explain(layout.folder, error)}"
        ) from error


def _check_writable(layout: Layout) -> None:
    """Raises a storage error if files cannot be written to the output folder, or those in it cannot be replaced."""
    probe = f"{layout.request}.probe"
    door.write_atomic(probe, b"")
    door.delete([probe])
    for folder in filter(door.is_local, (layout.folder, layout.receipts)):
        if door.exists(folder) and not os.access(door.local(folder), os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
