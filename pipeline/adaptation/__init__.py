"""From annotated scans to a model and an estimate of how good it is, in one command."""
