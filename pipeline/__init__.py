"""The job: flags, plan, graph, progress. `python -m pipeline.main --help` shows its use."""
