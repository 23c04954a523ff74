"""Checks whether the network of a model is code outside Graft, and whether that code may be run."""

from __future__ import annotations

import logging

from models.networks.factory import NetworkOptions
from models.networks.imported_network import ImportedNetworkOptions
from pipeline.storage.network_source import source_digest

logger = logging.getLogger(__name__)


def require_network_code(network: NetworkOptions) -> None:
    """Requires the code of a model's network before any other work, and warns if the code has changed.

    Args:
        network: as read from a model folder; inside `network_code_allowed` if the user has consented.

    Raises:
        NetworkCodeError: the network is code outside Graft that may not be run or is not installed.
    """
    if not isinstance(network, ImportedNetworkOptions):
        return
    network.require_code()
    if network.source and source_digest(network.factory) != network.source:
        logger.warning(
            "the code of `%s` has changed since the model was trained: its results may differ", network.factory
        )
