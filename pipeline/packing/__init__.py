"""Making a source pack from a workspace."""
