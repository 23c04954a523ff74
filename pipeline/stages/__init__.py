"""The stages of a study, one a file, in the order check → preprocess → … → report."""
