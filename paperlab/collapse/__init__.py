"""Papers of the family ``collapse``: neural collapse and the geometry of representations."""
