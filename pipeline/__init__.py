"""The launcher: flags, plan, graph, progress and report. `python -m pipeline.main --help` says how to use it."""
