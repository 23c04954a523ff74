"""Numbers of one predicted mask against its reference."""
