"""The commands of `graft`, one file for each group; heavy modules are imported inside them."""
