"""Units as jobs of a cluster."""
