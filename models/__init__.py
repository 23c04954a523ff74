"""Networks, filters, filter priors, posteriors and objectives: torch modules, no files, no command line."""
