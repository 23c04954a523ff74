"""nnU-Net's trainer for a number of iterations that somebody else counted; found by `nnUNet_extTrainer`.

It runs in an environment with nnU-Net, which Graft's own does not have. All is as nnU-Net has it, except that the
length of the training is given, and that the scans that it learned from are not predicted at its end.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCHS = 20
"""The rate falls from epoch to epoch; so a short training, too, has enough of them. `PEER_EPOCHS` asks for others."""


class ShortTrainer(nnUNetTrainer):
    """Trains for `PEER_ITERATIONS` iterations in all."""

    # It reads the names of these arguments to keep their values, so they have to be the same.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        iterations = int(os.environ["PEER_ITERATIONS"])
        self.num_epochs = min(int(os.environ.get("PEER_EPOCHS", EPOCHS)), iterations)
        # Not fewer in all than were asked for.
        self.num_iterations_per_epoch = math.ceil(iterations / self.num_epochs)
        # What they would measure is of the scans that are learned from.
        self.num_val_iterations_per_epoch = 1

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Does nothing: with fold `all` it would predict the training scans."""
