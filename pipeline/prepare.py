"""Makes the output folder ready for a plan: the only step before the run that writes there."""

from __future__ import annotations

import errno
import os

from apache_beam.io.filesystem import BeamIOError

from pipeline.flags import RequestError
from pipeline.plan import Plan
from transforms.commit import arrays, request, retry_failures
from transforms.commit import replace as replacing
from transforms.commit.layout import Layout
from transforms.storage import door
from transforms.storage.errors import is_transient


def prepare(plan: Plan) -> None:
    """Makes the output folder ready for the run: the only step of planning that writes.

    Raises RequestError if the folder is not writable, in use by another job, or has features of different weights.
    """
    layout = plan.layout
    note = layout, plan.fingerprint, len(plan.shards), plan.listing
    try:
        if plan.state.stale:  # nothing is deleted unless the folder is writable
            _check_writable(layout)
        is_taken_over = bool({*request.notes(layout)} & {*plan.state.stale})
        if plan.todo and not is_taken_over:
            request.enter(*note)
        # Receipts first: from then on nothing counts as done.
        door.delete([path for path in plan.state.stale if path.endswith(".json")])
        door.delete([path for path in plan.state.stale if not path.endswith(".json")])
        if plan.todo:
            arrays.enter(layout, (*plan.state.done, *plan.state.retried, *plan.state.begun))
        for receipt in plan.state.begun:
            replacing.settle(layout, receipt)
        if plan.state.retried:
            retry_failures.write_marker(layout, plan.todo)
        for path, content in plan.lists.items():
            # Without the list of image files its shards cannot be read again; others only tell what is new.
            if plan.todo or path == layout.listing:
                door.write_if_other(path, content)
        if plan.class_names is not None:
            door.write_if_other(layout.class_names, plan.class_names)
        if is_taken_over:
            request.enter(*note)
        if plan.todo or not plan.shards:
            door.write_if_other(layout.request, plan.request)
    except (request.OutputInUse, arrays.OtherWeights) as error:
        raise RequestError(str(error)) from error
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        if is_transient(error):
            raise
        raise RequestError(
            f"--output={layout.folder} cannot be written to: {door.explain(layout.folder, error)}"
        ) from error


def _check_writable(layout: Layout) -> None:
    """Raises a storage error if files cannot be written to the output folder, or those in it cannot be replaced."""
    probe = f"{layout.running}.probe"
    door.write_atomic(probe, b"")
    door.delete([probe])
    for folder in filter(door.is_local, (layout.folder, layout.receipts)):
        if door.exists(folder) and not os.access(door.local(folder), os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
