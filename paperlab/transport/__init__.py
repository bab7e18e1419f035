"""Papers of the family ``transport``: optimal transport, sliced Wasserstein distances and flows."""
