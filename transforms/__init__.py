"""The steps of the graph, each a pure function and a thin DoFn around it, and, in folders, what they are built on."""
