"""Whether the network of a model is code outside Graft, and whether it may be run."""

from __future__ import annotations

import logging

from models.networks.factory import NetworkOptions
from models.networks.imported_network import ImportedNetworkOptions
from pipeline.storage.network_source import source_digest

logger = logging.getLogger(__name__)


def require_network_code(network: NetworkOptions) -> None:
    """Looks for the code of a model's network, before any work is done with it; says so if it is not what it was.

    Args:
        network: as it was read from a model folder; inside `network_code_allowed` if the user has consented.

    Raises:
        NetworkCodeError: the network is code outside Graft that may not be run, or is not there.
    """
    if not isinstance(network, ImportedNetworkOptions):
        return
    network.require_code()
    if network.source and source_digest(network.factory) != network.source:
        logger.warning(
            "the code of `%s` is not the code that the model was trained with: its results may differ", network.factory
        )
