"""Densities fitted to the filters of one group, scored on held-out networks, and compared."""
