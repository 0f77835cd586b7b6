"""Feature records in the forms that other tools read: `formats.py` lists them, `steps.py` has the steps of the graph."""
