"""How good a segmentation is, per case, and how sure a study can be of it, over patients."""
