"""The steps of the graph, each a pure function with a thin DoFn around it; the subpackages hold what they build on."""
