"""The BiT family of networks: names, weights, graph. Imports no Beam."""
