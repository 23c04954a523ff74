"""The workspace on disk: atomic writes, digests, locks, owned folders, tensors, and names of files."""
