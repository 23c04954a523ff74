"""Arms: the ways to learn the target, each a point in a few orthogonal choices."""
