"""Planning a study from the scans: fingerprint, grid, network, time, and the YAML that says why."""
