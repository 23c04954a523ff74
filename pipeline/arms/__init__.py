"""Arms: ways to learn the target, each a combination of a few independent choices."""
