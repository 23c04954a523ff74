"""The input of a bundle: raw scans if it can prepare them as Graft does, otherwise volumes ready for the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.heads import Heads
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.vendored_source import vendored_name
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule

NETWORK_GRID = "pipeline.deployment.network_grid"
PORTABLE = ("padding_removal", "canonical_orientation", "resampling", "intensity", "cropping", "padding")
"""Steps that need only the scan: no template, registration or brain mask."""


@dataclass(frozen=True)
class BundleInput:
    """The input of a bundle.

    Attributes:
        missing: steps of the chain that a bundle cannot run; empty if it takes raw scans.
        chain: step → options, of the steps that it runs; empty if the input is ready for the network.
        rule: how it makes masks from probabilities.
        components: what it keeps of the components of each class; empty if it keeps everything.
        heads: what the network's output channels stand for.
    """

    missing: tuple[str, ...]
    chain: dict[str, Any]
    rule: MaskRule
    components: tuple[ComponentRule, ...]
    heads: Heads = Heads.EXCLUSIVE

    @classmethod
    def of(cls, about: ModelDescription) -> BundleInput:
        """Reads it from the chain of a model."""
        steps = {name: step for name, step in about.preprocessing if name != "threads" and step is not None}
        missing = tuple(name for name in steps if name not in PORTABLE)
        chain = {name: steps[name].model_dump(mode="json") for name in PORTABLE if name in steps}
        rules = about.arm.reading.rules(tuple(about.classes))
        kept = () if all(rule.keeps_everything for rule in rules) else rules
        return cls(missing, {} if missing else chain, about.arm.reading.mask, kept, about.heads)

    @property
    def raw(self) -> bool:
        """Whether the bundle takes raw scans."""
        return not self.missing

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules of Graft that the bundle needs a copy of; none where MONAI's own transforms suffice."""
        plain = self.rule is MaskRule.MOST_PROBABLE and not self.components and self.heads is Heads.EXCLUSIVE
        return () if plain and not self.chain else (NETWORK_GRID,)

    def largest_value(self, about: ModelDescription) -> int:
        """The largest value that a voxel of a mask can have."""
        values = about.classes.values()
        return max(values) if self.heads is Heads.EXCLUSIVE else sum(values)

    def to_network(self, about: ModelDescription) -> list[dict[str, Any]]:
        """Transforms that carry scans to the network's grid."""
        if not self.chain:
            return []
        target = f"{vendored_name(NETWORK_GRID)}.ToNetworkGridd"
        return [{"_target_": target, "keys": "image", "channels": len(about.channels), "chain": self.chain}]

    def to_mask(self, about: ModelDescription) -> list[dict[str, Any]]:
        """Transforms that turn probabilities into masks with the model's label values on the grid of the input."""
        values = list(about.classes.values())
        if self.modules:
            target = f"{vendored_name(NETWORK_GRID)}.ToScanGridd"
            kept = [rule.model_dump(mode="json") for rule in self.components]
            own: dict[str, Any] = {"chain": self.chain, "values": values, "rule": self.rule.value, "components": kept}
            own |= {} if self.heads is Heads.EXCLUSIVE else {"heads": self.heads.value}
            return [{"_target_": target, "keys": "pred", **own}]
        numbers = list(range(len(values) + 1))
        steps: list[dict[str, Any]] = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
        if [0, *values] != numbers:
            mapping = {"orig_labels": numbers, "target_labels": [0, *values]}
            steps.append({"_target_": "MapLabelValued", "keys": "pred", **mapping, "dtype": "$numpy.uint8"})
        return steps
