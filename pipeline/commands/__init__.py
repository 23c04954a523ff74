"""The commands of `graft`, a file for each group; everything heavy is imported inside them."""
