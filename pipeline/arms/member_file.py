"""The file of a trained member: its weights and posterior."""

from __future__ import annotations

from pathlib import Path

from models.bayesian_network import BayesianNetwork
from pipeline.arms.choices import ArmOptions
from pipeline.arms.member import rebuild_member
from pipeline.arms.target_network import TargetNetwork
from pipeline.storage.tensors import load_about, load_tensors, save_tensors

_KERNELS, _MIRRORED = "transposed_kernels", "mirrored"
"""Says that the filters of transposed convolutions are as a convolution applies them. Earlier versions kept the kernels
as a network stores them, and said nothing."""


def write_member(path: Path, member: BayesianNetwork) -> None:
    """Writes a member."""
    save_tensors(path, member.state_dict(), {_KERNELS: _MIRRORED})


def read_member(path: Path, arm: ArmOptions, network: TargetNetwork) -> BayesianNetwork:
    """Reads a member, ready to predict.

    Args:
        path: the file.
        arm: the choices of the arm; the settings of its posterior say how draws are made.
        network: the network.

    Raises:
        ModelError: the weights do not fit these options.
        WorkspaceError: the file is missing or damaged.
    """
    as_stored = load_about(path).get(_KERNELS) != _MIRRORED
    return rebuild_member(arm, network, load_tensors(path), as_stored)
