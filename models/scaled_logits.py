"""Temperature scaling of a network: its logits divided by one number (Guo et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn


class ScaledLogits(nn.Module):
    """A network whose logits are divided by a temperature.

    Args:
        network: maps images to logits.
        temperature: above 1 makes the probabilities less certain; the most probable class stays.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Returns the network's logits, divided."""
        logits: Tensor = self.network(images)
        return logits / self.temperature
