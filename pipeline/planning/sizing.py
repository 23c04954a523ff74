"""Grid, patch, network and schedule together: the most ambitious study that fits into memory and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from data.errors import ConfigError
from data.plain_number import plain_duration
from models.networks.factory import NetworkOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.packs.pack_record import PackRecord
from pipeline.planning.concessions import Ambition, ambitions
from pipeline.planning.evaluation_design import EvaluationDesign
from pipeline.planning.fingerprint import Fingerprint
from pipeline.planning.pack_basis import patches_of_pack, scan_voxels
from pipeline.planning.patch import LARGEST, plan_patch
from pipeline.planning.schedule import GOOD_STEPS, USEFUL_STEPS, Work, budget_that_fits, count_work
from pipeline.planning.spacing import Spacing, coarser
from pipeline.planning.speed import Speed
from pipeline.planning.study_folds import study_folds
from pipeline.training.available_memory import available_memory
from pipeline.training.computing import fastest_precision
from pipeline.training.memory_estimate import estimate_training_memory, fitting_patches, in_words, require_memory
from pipeline.training.patches import PatchOptions

Meter = Callable[[NetworkOptions, PatchOptions, tuple[int, ...]], Speed]
"""Network, patches and voxels of a scan → the speed on this machine."""


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        device: `cpu` or `cuda`.
        at_a_time: trainings side by side.
        threads: of each.
        meter: times a network.
    """

    device: str
    at_a_time: int
    threads: int
    meter: Meter


@dataclass(frozen=True)
class Wish:
    """What a study would do if time did not matter, and what its source has decided.

    Attributes:
        first: all of it.
        chosen_arms: whether somebody chose the arms, so that none is replaced.
        trains_source: whether source networks are trained.
        tunes: whether the peak rates of the arms are tuned.
        pack: a source pack, which decides network and patches.
    """

    first: Ambition = field(default_factory=Ambition)
    chosen_arms: bool = False
    trains_source: bool = True
    tunes: bool = False
    pack: PackRecord | None = None

    def ambitions(self, design: EvaluationDesign) -> Iterator[Ambition]:
        """Yields from the whole study to the least."""
        return ambitions(
            self.first,
            chosen_arms=self.chosen_arms,
            many_folds=design.with_fewer_folds() != design,
            own_network=self.pack is None,
        )


@dataclass(frozen=True)
class Sizing:
    """What fits.

    Attributes:
        ambition: how much of the study.
        spacing: mm of the grid.
        whole: whether a patch shows a whole scan.
        patches: as the study has them.
        memory: what a training takes, in words; what had to be given up for it.
        network: which network.
        design: how the study is judged.
        work: what is carried out.
        speed: on this machine.
        steps: of each training.
    """

    ambition: Ambition
    spacing: Spacing
    whole: bool
    patches: PatchOptions
    memory: str
    network: NetworkOptions
    design: EvaluationDesign
    work: Work
    speed: Speed
    steps: int


def size_study(
    budget: float,
    spacing: Spacing,
    found: Fingerprint,
    design: EvaluationDesign,
    channels: int,
    classes: int,
    cases_per_patient: float,
    preparation: float,
    machine: Machine,
    wish: Wish,
) -> Sizing:
    """Finds the most ambitious study that fits.

    It is the first whose trainings all have a good number of steps. Where none has on the grid of the data, it is the
    one of the most steps there; the grid is coarsened only where those would be too few to be useful.

    The speed is timed for each width of the network, and taken as proportional to the voxels.

    Args:
        budget: seconds.
        spacing: the finest grid that the data have.
        found: sizes of scans and structures.
        design: how the study is judged.
        channels: of the images.
        classes: background included.
        cases_per_patient: scans of each patient.
        preparation: seconds that preprocessing takes in all.
        machine: what trains.
        wish: what the study would do.

    Raises:
        ConfigError: not even the least study fits into the budget.
        TrainingError: not even one small patch fits into the memory.
    """
    attempts = _Attempts(
        budget, spacing, found, design, channels, classes, cases_per_patient, preparation, machine, wish
    )
    tried: list[Sizing] = []
    for ambition in wish.ambitions(design):
        if ambition.coarser > 1 and (useful := _most_steps(tried)):
            return useful
        tried.append(attempts.at(ambition))
        if tried[-1].steps >= (GOOD_STEPS if ambition.coarser == 1 else USEFUL_STEPS):
            return tried[-1]
    if useful := _most_steps(tried):
        return useful
    raise _too_short(budget, tried[-1])


@dataclass
class _Attempts:
    """Sizes a study at one ambition after another; the arguments are those of `size_study`."""

    budget: float
    spacing: Spacing
    found: Fingerprint
    design: EvaluationDesign
    channels: int
    classes: int
    cases_per_patient: float
    preparation: float
    machine: Machine
    wish: Wish

    def __post_init__(self) -> None:
        self._available = available_memory(self.machine.device)
        self._timed: dict[int, tuple[float, float, Speed]] = {}
        self._fitted: dict[tuple[object, ...], tuple[PatchOptions, str]] = {}

    def at(self, ambition: Ambition) -> Sizing:
        """The study at one ambition, with the steps that the budget allows, however few."""
        grid = coarser(self.spacing, ambition.coarser) if ambition.coarser > 1 else self.spacing
        scan = scan_voxels(self.found.extent, grid)
        device = self.machine.device
        network, planned, whole = _network_and_patches(self.wish, ambition, grid, self.found, scan, device)
        patches, memory = self._fitting(network, planned)
        speed = self._speed(ambition, network, patches, scan)
        judged = self.design.with_fewer_folds() if ambition.few_folds else self.design
        work = self._work(ambition, judged)
        steps = work.steps(self.budget, speed)
        return Sizing(ambition, grid, whole, patches, memory, network, judged, work, speed, steps)

    def _fitting(self, network: NetworkOptions, planned: PatchOptions) -> tuple[PatchOptions, str]:
        # To estimate the memory, a network is built and passed through.
        shape = (network.model_dump_json(), planned.size, planned.batch)
        if shape not in self._fitted:
            self._fitted[shape] = _fitting(network, self.channels, self.classes, planned, self._available, self.machine)
        return self._fitted[shape]

    def _speed(
        self, ambition: Ambition, network: NetworkOptions, patches: PatchOptions, scan: tuple[int, ...]
    ) -> Speed:
        voxels = float(patches.batch * math.prod(patches.size)), float(math.prod(scan))
        if ambition.halvings not in self._timed:
            self._timed[ambition.halvings] = (*voxels, self.machine.meter(network, patches, scan))
        of_step, of_scan, measured = self._timed[ambition.halvings]
        return measured.for_voxels(voxels[0] / of_step, voxels[1] / of_scan)

    def _work(self, ambition: Ambition, judged: EvaluationDesign) -> Work:
        usual = TargetTrainingOptions()
        return count_work(
            ambition.options,
            study_folds(judged, usual.inner_folds),
            max(ambition.networks, 1) if self.wish.trains_source else 0,
            self.cases_per_patient,
            self.preparation,
            self.machine.at_a_time,
            len(usual.tuned_rates) if self.wish.tunes else 0,
        )


def _too_short(budget: float, least: Sizing) -> ConfigError:
    enough = budget_that_fits(least.work, least.speed)
    of_source = f"{least.work.networks} source and " if least.work.networks else ""
    although = f", although {', '.join(least.ambition.given_up)}" if least.ambition.given_up else ""
    return ConfigError(
        f"--budget {plain_duration(budget)}: is too short for {of_source}{least.work.trainings} target trainings of "
        f"{USEFUL_STEPS} steps{although}",
        expected=f"at least {enough}",
        fix=f"give `--budget {enough}` or more",
    )


def _most_steps(tried: Sequence[Sizing]) -> Sizing | None:
    """The one of the most steps, if these are enough to be useful."""
    best = max(tried, key=lambda sizing: sizing.steps)
    return best if best.steps >= USEFUL_STEPS else None


def _network_and_patches(
    wish: Wish, ambition: Ambition, grid: Spacing, found: Fingerprint, scan: tuple[int, ...], device: str
) -> tuple[NetworkOptions, PatchOptions, bool]:
    """The network, its patches if memory did not matter, and whether one shows a whole scan."""
    if wish.pack is not None:
        return wish.pack.network, *patches_of_pack(wish.pack, scan)
    patch = plan_patch(grid, found.extent, found.structure, LARGEST[device])
    patches = PatchOptions(size=patch.size, batch=patch.batch, foreground_share=patch.foreground_share)
    return patch.network(ambition.halvings), patches, patch.whole


def _fitting(
    network: NetworkOptions, channels: int, classes: int, planned: PatchOptions, available: int, machine: Machine
) -> tuple[PatchOptions, str]:
    """The planned patches, or smaller ones where the memory is small, and what they take."""
    precision = fastest_precision(machine.device)
    estimate = estimate_training_memory(network, channels, classes, planned, precision=precision, device=machine.device)
    share = available // machine.at_a_time
    fitting = fitting_patches(estimate, share)
    if fitting is None:
        require_memory(estimate, available, machine.at_a_time)
        raise ValueError("patches that do not fit are refused")
    if fitting == planned:
        return planned, f"a training takes about {in_words(estimate.total)} of memory"
    wanted = "×".join(map(str, planned.size))
    smaller = f"{planned.batch} patches of {wanted} voxels would take {in_words(estimate.total)} of memory"
    return fitting, f"{smaller}, and {in_words(share)} are free for each training"
