"""Units of work: done once, several at a time, with progress, and stopped when asked."""
