"""The gate: how unlike the training scans a scan is, in the features of the network that segments it.

The mean and the standard deviation of the features of the bottleneck over the patient's content are one vector a scan:
the mean alone hardly changes with contrast behind layers that normalise it. A normal distribution is
fitted to those of the training scans, and a scan is as unlike as its Mahalanobis distance. What distance is unusual is
told by training scans that a fit without their patient has not seen (`ScoreTail`). A second distribution, of features
at single positions, says where in the scan the unlikeness is.

    gate.safetensors    both distributions, and the tail of the distances in the description
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.errors import GraftError, ModelError
from data.random_streams import stream_seed
from data.stored_record import StoredRecord
from models.bayesian_network import BayesianNetwork
from models.feature_gaussian import FeatureGaussian, leave_one_out_distances
from models.intrinsic_dimension import maximum_likelihood_dimension
from models.networks.bottleneck import bottleneck_module
from models.score_tail import ScoreTail
from pipeline.deployment.judgement import AGAIN, FEATURES, Judgement, TailRecord
from pipeline.prediction.scan_features import ScanFeatures, scan_features
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import load_about, load_tensors, save_tensors

LEAST_PATIENTS = 5
"""Of fewer, nothing is said of how far scans like them lie apart."""
_POOLED, _POSITIONS = "pooled", "positions"


class GateRecord(StoredRecord):
    """The description of `gate.safetensors`."""

    module: str
    """Module of the network whose output the features are."""
    scans: int
    """Training scans."""
    patients: int
    """Training patients."""
    features: int
    """Number of features at a position; a scan has twice as many numbers, their means and standard deviations."""
    intrinsic_dimension: float
    """Intrinsic dimension of the features at single positions of the training scans."""
    tail: TailRecord
    """Distances of training scans from fits without their patient."""


@dataclass(frozen=True)
class FeatureGate:
    """The gate of a model.

    Attributes:
        record: its facts.
        pooled: distribution of features of whole scans.
        positions: distribution of features at single positions.
    """

    record: GateRecord
    pooled: FeatureGaussian
    positions: FeatureGaussian

    @classmethod
    def fit(
        cls,
        member: BayesianNetwork,
        cases: Sequence[CachedCase],
        patch: Sequence[int],
        window: SlidingWindowOptions,
        device: str,
        progress: Callable[[float], object] = lambda share: None,
    ) -> FeatureGate | None:
        """Fits the gate to training scans; None where a network has no coarser level or patients are too few.

        Args:
            member: the first member of the model, on `device`; its weights are those at the centre of the posterior.
            cases: the training scans.
            patch: size of the window.
            window: how it moves.
            device: `cpu` or `cuda`.
            progress: called with the share done.
        """
        patients = [case.patient for case in cases]
        module = bottleneck_module(member.network) if len(set(patients)) >= LEAST_PATIENTS else None
        if module is None:
            return None
        forward, seen = member.with_weights(member.centre()), list[ScanFeatures]()
        for number, case in enumerate(cases):
            image, content = case.image().to(device), case.mask()
            seen.append(scan_features(member.network, forward, module, image, content, patch, window))
            progress((number + 1) / len(cases))
        pooled = torch.stack([own.pooled for own in seen])
        positions = torch.cat([own.positions for own in seen])
        generator = torch.Generator().manual_seed(stream_seed(0, "gate"))
        record = GateRecord(
            module=module,
            scans=len(cases),
            patients=len(set(patients)),
            features=positions.shape[1],
            intrinsic_dimension=maximum_likelihood_dimension(positions, generator=generator),
            tail=TailRecord(**asdict(ScoreTail.of(leave_one_out_distances(pooled, patients), patients))),
        )
        return cls(record, FeatureGaussian.fit(pooled), FeatureGaussian.fit(positions))

    def save(self, path: Path) -> None:
        """Writes it."""
        tensors = self.pooled.to_tensors(_POOLED) | self.positions.to_tensors(_POSITIONS)
        save_tensors(path, tensors, self.record.as_json())

    @classmethod
    def read(cls, path: Path, member: BayesianNetwork) -> FeatureGate:
        """Reads it.

        Raises:
            ModelError: it is damaged, or is not of this network.
        """
        try:
            tensors, record = load_tensors(path), GateRecord.model_validate(load_about(path))
            pooled, positions = (FeatureGaussian.from_tensors(name, tensors) for name in (_POOLED, _POSITIONS))
        except (GraftError, KeyError, ValueError) as error:
            raise ModelError(
                f"{path}: cannot be read", expected="the gate that `graft infer` wrote", fix=AGAIN
            ) from error
        known, count = dict(member.network.named_modules()), record.features
        sizes = [(len(own.mean), *own.precision.shape) for own in (pooled, positions)]
        if record.module not in known or sizes != [(2 * count,) * 3, (count,) * 3]:
            raise ModelError(
                f"{path}: is of another network than the model", expected=f"features of {record.module}", fix=AGAIN
            )
        return cls(record, pooled, positions)

    def judge(
        self,
        member: BayesianNetwork,
        image: Tensor,
        content: Tensor,
        patch: Sequence[int],
        window: SlidingWindowOptions,
        percentile: float,
    ) -> Judgement:
        """Says how unlike the training scans a scan is.

        Args:
            member: the first member of the model.
            image: `[C, X, Y, Z]`, preprocessed, on the device of the member.
            content: `[X, Y, Z]` bool, where there is something of the patient.
            patch: size of the window.
            window: how it moves.
            percentile: of scans like those of the training, up to which nothing is said; 1 allows all.
        """
        forward = member.with_weights(member.centre())
        module = self.record.module
        found = scan_features(member.network, forward, module, image, content, patch, window, self.positions)
        tail = self.record.tail.tail()
        value = float(self.pooled.distance(found.pooled[None]))
        if found.distances is None:
            raise TypeError("features were not compared with a distribution")
        return Judgement.of(FEATURES, value, tail, percentile, found.distances / self.record.features**0.5)
