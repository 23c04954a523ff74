"""A network that learns what scans look like, from scans alone.

Its trunk is the segmentation network of a study, with as many outputs as the image has channels. All weights but those
of the last layer have the names and shapes that they have there, so they can start a segmentation network.

With `denoising` and `masked` the network is whole. With the others the decoder sees the bottleneck alone: its skip
connections carry zeros, or the image would go past the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.image_models.bottleneck_penalties import sparseness, squared_jacobian, standardised
from models.image_models.corruption import block_numbers, coarse_noise, hidden_blocks
from models.image_models.normal_bottleneck import LatentNormal, NormalBottleneck, elbo, importance_weighted_bound
from models.image_models.objectives import (
    Contractive,
    Denoising,
    ImageObjective,
    Masked,
    Sparse,
    Variational,
    needs_bottleneck,
)
from models.networks.encoder_decoder import bottleneck_width, decode, encode, without_skips
from models.networks.factory import (
    NetworkOptions,
    build_network,
    coarsest_factors,
    head_parameters,
    network_record,
    without_deep_supervision,
)

TRUNK = "network."
"""What the names of the trunk's weights begin with in a state of the model."""
_OVERLAP = 0.5


@dataclass(frozen=True)
class ImageLoss:
    """The loss of a step.

    Attributes:
        loss: a scalar; mean squared error per foreground voxel in the units of the scaled image, with any penalty, or
            −ELBO in nats per foreground voxel.
        terms: to log.
    """

    loss: Tensor
    terms: Mapping[str, float] = field(default_factory=dict)


class ImageModel(nn.Module):
    """An autoencoder of images.

    Args:
        network: made by `build_network`, with as many outputs as image channels.
        objective: what it learns.

    Raises:
        ModelError: the objective needs a bottleneck, and that of the network is not known.
    """

    def __init__(self, network: nn.Module, objective: ImageObjective) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.normal: NormalBottleneck | None = None
        if self.through_bottleneck:
            width = bottleneck_width(network)
            if isinstance(objective, Variational):
                channels = network_record(network).in_channels
                self.normal = NormalBottleneck(width, objective.latent_channels, channels)

    @property
    def through_bottleneck(self) -> bool:
        """Whether the decoder sees the bottleneck alone."""
        return needs_bottleneck(self.objective)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstructs images `[N, C, X, Y, Z]` of a size that the network takes; a variational one from its mean."""
        if not self.through_bottleneck:
            output: Tensor = self.network(image)
            return output
        features, nothing = without_skips(encode(self.network, image))
        return self._decoded(self._code(features), nothing)

    def code(self, image: Tensor) -> Tensor:
        """Computes what the decoder would be given: the bottleneck, or the mean of the latent, `[N, F, x, y, z]`."""
        return self._code(encode(self.network, image)[0])

    def _code(self, features: Tensor) -> Tensor:
        return features if self.normal is None else self.normal.posterior(features).mean

    def decode(self, code: Tensor, like: Tensor) -> Tensor:
        """Makes images of codes `[N, F, x, y, z]` alone, of the size of the images `like`."""
        with torch.no_grad():
            _, nothing = without_skips(encode(self.network, like))
        return self._decoded(code, nothing)

    def _decoded(self, code: Tensor, nothing: Sequence[Tensor]) -> Tensor:
        features = code if self.normal is None else self.normal.expand(code)
        return decode(self.network, features, nothing)

    def corrupted(self, image: Tensor, foreground: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draws what the network is shown of images in a step.

        Args:
            image: `[N, C, X, Y, Z]`.
            foreground: `[N, X, Y, Z]` bool.
            generator: of noise and hidden blocks.

        Returns:
            The input, and `[N, X, Y, Z]` bool, the voxels whose reconstruction counts.
        """
        own = self.objective
        if isinstance(own, Denoising):
            noise = coarse_noise(image, own.noise_spacing, own.noise_level, generator)
            return image + noise * foreground[:, None], foreground
        if isinstance(own, Masked):
            hidden = hidden_blocks(image, own.block, own.hidden_share, generator)
            return image.masked_fill(hidden, 0.0), foreground & hidden[:, 0]
        return image, foreground

    def loss(self, image: Tensor, foreground: Tensor, generator: torch.Generator | None) -> ImageLoss:
        """Computes the objective of images `[N, C, X, Y, Z]` with their foreground `[N, X, Y, Z]`."""
        if self.normal is not None:
            return self._negative_bound(image, foreground, generator)
        shown, counted = self.corrupted(image, foreground, generator)
        if not self.through_bottleneck:
            error = _mean(_squared_error(self.network(shown), image), counted)
            return ImageLoss(error, {"error": float(error.detach())})
        shown = shown.detach().requires_grad_(isinstance(self.objective, Contractive))
        features, nothing = without_skips(encode(self.network, shown))
        error = _mean(_squared_error(self._decoded(features, nothing), image), counted)
        weight, penalty = self._penalty(_full(standardised(features)), shown, generator)
        return ImageLoss(error + weight * penalty, {"error": float(error.detach()), "penalty": float(penalty.detach())})

    def _penalty(self, code: Tensor, shown: Tensor, generator: torch.Generator | None) -> tuple[float, Tensor]:
        """The weight of what is added to the error, and what it is."""
        own = self.objective
        if isinstance(own, Sparse):
            return own.weight, sparseness(code, own)
        if isinstance(own, Contractive):
            return own.weight, squared_jacobian(code, shown, own.projections, generator)
        raise TypeError(f"the objective {own.kind} has no penalty")

    def _negative_bound(self, image: Tensor, foreground: Tensor, generator: torch.Generator | None) -> ImageLoss:
        own = self.objective
        posterior, nats_of = self._inference(image)
        if isinstance(own, Variational) and own.samples > 1:
            bound, _ = importance_weighted_bound(posterior, nats_of, foreground, own.samples, generator)
            divergence = posterior.kl()
        else:
            bound, divergence = elbo(posterior, nats_of, foreground, generator)
        terms = {"negative_elbo": float(-bound.detach().mean()), "kl": float(divergence.detach().mean())}
        return ImageLoss(-bound.sum() / foreground.sum().clamp_min(1), terms)

    def _inference(self, image: Tensor) -> tuple[LatentNormal, Callable[[Tensor], Tensor]]:
        """The posterior of the latent, and how a latent becomes −log p(x | z) of every voxel."""
        normal = self.normal
        if normal is None:
            raise TypeError(f"the objective {self.objective.kind} has no normal bottleneck")
        features, nothing = without_skips(encode(self.network, image))
        return normal.posterior(features), lambda latent: normal.nats(self._decoded(latent, nothing), image)

    @torch.no_grad()
    def reconstruct(self, image: Tensor, patch: Sequence[int] | None = None) -> Tensor:
        """Reconstructs a scan `[C, X, Y, Z]`, not corrupted: whole, or by overlapping windows of `patch` voxels."""
        return self._over(image, patch, self.forward)

    @torch.no_grad()
    def bottleneck(self, image: Tensor, patch: Sequence[int] | None = None) -> Tensor:
        """Computes the bottleneck of a scan `[C, X, Y, Z]`: `[F, x, y, z]`, or the mean of the latent.

        Args:
            image: the scan; it is enlarged by its edge to whole voxels of the bottleneck.
            patch: voxels of the overlapping windows that it is computed by; by default the scan as a whole.

        Raises:
            ModelError: the bottleneck of the network is not known.
        """
        return self._over(image, patch, self.code, cut=False)

    @torch.no_grad()
    def score(
        self,
        image: Tensor,
        foreground: Tensor,
        generator: torch.Generator | None = None,
        patch: Sequence[int] | None = None,
    ) -> tuple[float, Tensor]:
        """Measures how unlike the scans a scan is that the model has learned from.

        `denoising` (as in the paper, of the scan without noise), `sparse` and `contractive`: squared error of the
        reconstruction, mean over channels. `masked`: the same of hidden blocks; every block is hidden once.
        `variational`: the negative importance-weighted bound, in nats per foreground voxel; by windows, the mean of
        those that cover a voxel.

        Args:
            image: `[C, X, Y, Z]`.
            foreground: `[X, Y, Z]` bool.
            generator: of hidden blocks and draws.
            patch: voxels of overlapping windows; by default the scan as a whole.

        Returns:
            The mean over the foreground, and a map `[X, Y, Z]`: squared error or −log p(x | z) of each voxel, 0 in the
            background.

        Raises:
            ModelError: there is no foreground.
        """
        if not bool(foreground.any()):
            raise ModelError(
                "the scan has no foreground that an image model could score",
                expected="a foreground mask with at least one voxel",
                fix="check the scan and its mask",
            )

        def of_window(stacked: Tensor) -> Tensor:
            return self._scores(stacked[:, :-1], stacked[:, -1] > 0, generator)

        # What enlarges a scan repeats its edge, and must not count: it is told from the scan by a channel of its own.
        both = torch.cat([image, foreground[None].to(image)])
        value, shown = self._over(both, patch, of_window)
        return float(value[foreground].double().mean()), shown.masked_fill(~foreground, 0.0)

    def _scores(self, image: Tensor, foreground: Tensor, generator: torch.Generator | None) -> Tensor:
        """Of windows `[N, C, X, Y, Z]`: what the score is the mean of, and the map, `[N, 2, X, Y, Z]`."""
        own = self.objective
        if isinstance(own, Variational):
            posterior, nats_of = self._inference(image)
            bound, nats = importance_weighted_bound(posterior, nats_of, foreground, own.score_samples, generator)
            per_voxel = -bound / foreground.flatten(1).sum(1).clamp_min(1)
            return torch.stack([per_voxel[:, None, None, None].expand_as(nats), nats], dim=1)
        if isinstance(own, Masked):
            parts = max(2, round(1 / own.hidden_share))
            numbers, error = block_numbers(image, own.block, parts, generator), torch.zeros_like(image[:, 0])
            for part in range(parts):
                hidden = numbers == part
                found = _squared_error(self(image.masked_fill(hidden, 0.0)), image)
                error = torch.where(hidden[:, 0], found, error)
        else:
            error = _squared_error(self(image), image)
        return torch.stack([error, error], dim=1)

    def _over(
        self, image: Tensor, patch: Sequence[int] | None, of_window: Callable[[Tensor], Tensor], cut: bool = True
    ) -> Tensor:
        """Calls a function of windows `[N, C, …]` on a scan `[C, X, Y, Z]`, and puts the results together.

        The scan is enlarged to whole windows and whole voxels of the bottleneck; `cut` removes that from the result.
        """
        from monai.inferers.utils import sliding_window_inference

        factors, size = coarsest_factors(network_record(self.network).options), image.shape[1:]
        window = [_multiple(n, factor) for n, factor in zip(patch or size, factors, strict=True)]
        whole = [max(_multiple(n, f), w) for n, f, w in zip(size, factors, window, strict=True)]
        result = sliding_window_inference(
            _enlarged(image, whole)[None], window, 1, of_window, overlap=_OVERLAP, mode="gaussian"
        )
        if not isinstance(result, Tensor):
            raise TypeError("a window must give one tensor")
        x, y, z = size
        return result[0, :, :x, :y, :z] if cut else result[0]


def build_image_model(
    network: NetworkOptions, objective: ImageObjective, channels: int, seed: int | torch.Generator = 0
) -> ImageModel:
    """Builds an image model around a segmentation network.

    Args:
        network: options of the segmentation network.
        objective: what is learned.
        channels: of the image.
        seed: of the initial weights, or a generator from which one is drawn.

    Raises:
        ModelError: the objective needs a bottleneck, and that of the network is not known.
    """
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    built = build_network(without_deep_supervision(network), channels, channels, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(0, 2**62, (1,), generator=generator, device=generator.device).item()))
        return ImageModel(built, objective)


def trunk_weights(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights that a segmentation network can start from, by their names there: all but the last layer's.

    Args:
        network: a network of the same options, of any number of channels and classes.
        state: of an image model.
    """
    head = set(head_parameters(network))
    own = {name.removeprefix(TRUNK): tensor for name, tensor in state.items() if name.startswith(TRUNK)}
    return {name: tensor for name, tensor in own.items() if name not in head}


def _squared_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Squared error of each voxel, mean over channels, `[N, X, Y, Z]`."""
    return (_full(reconstruction) - image).square().mean(1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the voxels that count; 0 if there is none."""
    return (values * counted).sum() / counted.sum().clamp_min(1)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _multiple(voxels: int, factor: int) -> int:
    return math.ceil(voxels / factor) * factor


def _enlarged(image: Tensor, size: Sequence[int]) -> Tensor:
    """Repeats the edge of a scan `[C, X, Y, Z]` at its end up to a size."""
    pads = [pad for n, wanted in zip(reversed(image.shape[1:]), reversed(size), strict=True) for pad in (0, wanted - n)]
    return torch.nn.functional.pad(image[None], pads, mode="replicate")[0] if any(pads) else image
