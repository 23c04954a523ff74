"""From raw scans to network input: one step a file, each with its inverse."""
