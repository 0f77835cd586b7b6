"""Runs in Airflow's own environment: parses the DAGs, runs one of them several times, writes what came of it as JSON.

run_dags.py FOLDER REQUEST RESULT: REQUEST holds as JSON the params of each run by its name, and of the template's run.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import select


def run(dag: Any, params: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """One run to its end: states and tries of its tasks, or why it was refused."""
    try:
        ended = dag.test(run_conf=params, **more)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    tasks = {task.task_id: task for task in ended.get_task_instances()}
    with create_session() as session:
        recorded = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == ended.run_id)).all()
        events = [event.extra for event in recorded]
    return {
        "state": str(ended.state),
        "tasks": {name: str(task.state) for name, task in tasks.items()},
        "tries": {name: task.try_number for name, task in tasks.items()},
        "events": events,
    }


def describe(dag: Any) -> dict[str, Any]:
    return {
        "tasks": {task.task_id: type(task).__name__ for task in dag.tasks},
        "params": {name: param.schema for name, param in dag.params.items()},
        "schedule": dag.schedule,
        "defaults": {name: param.value for name, param in dag.params.items() if param.has_value},
    }


def fresh(folder: Path, name: str) -> Any:
    """A DAG, parsed anew: a run leaves its params in the one that it is given."""
    return DagBag(str(folder)).dags[name]


def days(folder: Path, asked: dict[str, list[str]]) -> dict[str, Any]:
    """A run of the scheduled DAG for each date; before it, the first of the files of that day is copied to the second."""
    out = {}
    for date, (source, target) in asked.items():
        shutil.copy(source, target)
        daily = fresh(folder, "bit_features_daily")
        out[date] = run(daily, None, logical_date=datetime.fromisoformat(date).replace(tzinfo=timezone.utc))
    return out


def template_body(folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The request that the template's DAG would send to Dataflow; the run is not real beyond that."""
    from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator

    return recorded(fresh(folder, "bit_features_template"), DataflowStartFlexTemplateOperator, "body", params)


def flags_of(folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The flags that the DAG would start the job with; or why it does not."""
    from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator

    return recorded(fresh(folder, "bit_features"), BeamRunPythonPipelineOperator, "pipeline_options", params)


def recorded(dag: Any, operator: Any, attribute: str, params: dict[str, Any]) -> dict[str, Any]:
    """An attribute of the task that starts the job, rendered, in a run that starts nothing; {} if it is not reached."""
    sent: list[dict[str, Any]] = []
    execute = operator.execute
    operator.execute = lambda self, context: sent.append(getattr(self, attribute))
    try:
        dag.test(run_conf=params, mark_success_pattern="verify|publish")
    finally:
        operator.execute = execute
    return sent[0] if sent else {}


def decisions(dag: Any) -> dict[str, str]:
    """What is done about a job that ended with an exit code."""
    texts = {
        "extract": "Apache Beam process failed with return code {}",
        "verify": "Bash command failed. The command returned a non-zero exit code {}.",
    }
    return {
        f"{name} {code}": dag.get_task(name)
        .retry_policy.evaluate(Exception(text.format(code)), 1, 3)
        .action.value
        for name, text in texts.items()
        for code in (1, 2, 3)
    }


def main() -> None:
    folder, request, result = map(Path, sys.argv[1:])
    bag = DagBag(str(folder))
    asked = json.loads(request.read_text())
    out: dict[str, Any] = {
        "errors": bag.import_errors,
        "imported": sorted({"apache_beam", "tensorflow", "pipeline"} & set(sys.modules)),
        "dags": {name: describe(dag) for name, dag in bag.dags.items()},
    }
    if not bag.import_errors:
        dag = bag.dags["bit_features"]
        out["decisions"] = decisions(dag)
        out["runs"] = {
            name: run(fresh(folder, "bit_features"), params) for name, params in asked["runs"].items()
        }
        out["days"] = days(folder, asked["days"])
        out["bodies"] = {name: template_body(folder, params) for name, params in asked["templates"].items()}
        out["flags"] = {name: flags_of(folder, params) for name, params in asked["flags"].items()}
    result.write_text(json.dumps(out, default=str))


if __name__ == "__main__":
    main()
