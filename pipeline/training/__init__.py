"""Training of networks: patches, augmentation, schedules, the loop and checkpoints."""
