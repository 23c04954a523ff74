"""Methods: paragraphs made from the validated configuration, ready for a paper, and the configuration itself."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from models.heads import Heads
from models.priors.factory import PriorOptions
from pipeline.arms.choices import NO_PRIOR
from pipeline.arms.without_annotation import is_source_alone
from pipeline.config.reading import as_yaml
from pipeline.config.study import StudyConfig
from pipeline.evaluation.case_row import METRICS
from pipeline.evaluation.measure_titles import metric_title
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_P, why_no_interval
from pipeline.execution.provenance_record import Provenance
from pipeline.report.image_model_files import ImageModelFiles, read_image_models
from pipeline.report.number_text import listing
from pipeline.report.page import page_environment
from pipeline.report.section import Material, Section
from pipeline.report.source_use import SourceUse, source_use
from pipeline.report.study_files import StudyFiles, folders
from pipeline.storage.plan_record import PlanRecord
from pipeline.storage.stage_names import Stage
from pipeline.training.image_model_options import Scans

_PARAGRAPHS = {
    "data": "Data",
    "preprocessing": "Preprocessing",
    "networks": "Networks and filter priors",
    "learning": "Learning the target",
    "evaluation": "Evaluation",
}
_STACK = {"python": "Python", "torch": "PyTorch", "monai": "MONAI", "SimpleITK": "SimpleITK"}


@dataclass(frozen=True)
class UnlabelledFacts:
    """The scans without annotation that a study used.

    Attributes:
        scans: how many there were.
        patients: of whom.
        withheld: how many of the scans have labels that were not read.
        tested: how many of the patients were also tested or learned from.
    """

    scans: int
    patients: int
    withheld: int
    tested: int

    @classmethod
    def of(cls, plan: PlanRecord) -> UnlabelledFacts:
        """Counts them in a plan."""
        others = {patient for role in ("pool", "test") for patient in plan.split.get(role, {})}
        return cls(
            sum(map(len, plan.unlabelled.values())),
            len(plan.unlabelled),
            len(plan.withheld),
            len(others & plan.unlabelled.keys()),
        )


@dataclass(frozen=True)
class MethodsFacts:
    """What the text says beside the configuration: what the arms need, and what the stages wrote.

    Attributes:
        files: of the study.
        config: its configuration.
        use: what the arms that are described use of the source.
    """

    files: StudyFiles
    config: StudyConfig
    use: SourceUse
    fewest_for_p: int = FEWEST_PATIENTS_FOR_P

    @property
    def patients(self) -> dict[str, int]:
        """Role → number of patients."""
        return self.files.patients

    @property
    def cross_validated(self) -> bool:
        """Whether the annotated patients are tested themselves, in folds."""
        return self.config.target.cross_validated

    @property
    def trains_source(self) -> bool:
        """Whether networks are, or were, trained on the source."""
        return self.use.networks or self.use.priors or bool(folders(self.files.root / Stage.TRAIN_SOURCE))

    @property
    def without_model(self) -> list[str]:
        """Arms that have no model of n = 0, where that is among the sizes."""
        return [f"“{arm}”" for arm in self.config.target_training.without_model_at_zero()]

    @property
    def source_alone(self) -> list[str]:
        """Arms whose models are source networks as they are, at n = 0."""
        training = self.config.target_training
        return [
            f"“{name}”"
            for name, arm in training.arms.items()
            if 0 in training.sizes_of(name) and is_source_alone(arm, 0)
        ]

    @property
    def priors(self) -> dict[str, PriorOptions | None]:
        """Density → its settings, for those that an arm uses; `None` for `auto`."""
        arms = self.config.target_training.arms.values()
        return {arm.prior: self.config.priors.densities.get(arm.prior) for arm in arms if arm.needs_prior}

    @property
    def image_models(self) -> dict[str, ImageModelFiles]:
        """Those that are trained, by name."""
        return read_image_models(self.files.root)

    @property
    def images_of_source(self) -> bool:
        """Whether one of them learned from scans of the source."""
        return any(own.record.patients.get(Scans.SOURCE) for own in self.image_models.values())

    @property
    def objectives(self) -> dict[str, list[str]]:
        """What was minimised, as `unit.json` has it → the arms."""
        found: dict[str, list[str]] = {}
        for arm, unit in self.files.first_units().items():
            found.setdefault(unit.record.objective.replace("_", " "), []).append(f"“{arm}”")
        return found

    @property
    def overlapping(self) -> list[str]:
        """Structures of the target, if any of them overlap."""
        classes = self.files.class_values(self.config.target.dataset)
        return list(classes) if Heads.of(classes) is Heads.OVERLAPPING else []

    @property
    def unlabelled(self) -> UnlabelledFacts | None:
        """What is known of the scans without annotation; None without any."""
        plan = self.files.plan
        return None if plan is None or not plan.unlabelled else UnlabelledFacts.of(plan)

    @property
    def kept_rounds(self) -> dict[str, list[str]]:
        """In how many choices which round of self-training was kept, in words → the arms."""
        found: dict[str, list[str]] = {}
        for arm in self.files.arms():
            kept = Counter(number for own in self.files.units if own.arm == arm for number in own.record.kept_rounds)
            if kept:
                words = listing([f"round {number} in {count}" for number, count in sorted(kept.items())])
                found.setdefault(f"{words} of {kept.total()}", []).append(f"“{arm}”")
        return found

    @property
    def partly_annotated(self) -> bool:
        """Whether a label of the target stands for voxels that are not annotated."""
        return bool(self.files.ignored_values(self.config.target.dataset))

    @property
    def kept(self) -> dict[str, list[str]]:
        """What fitted post-processing keeps at the largest n, as `unit.json` has it → the arms."""
        found: dict[str, list[str]] = {}
        for arm in self.files.arms():
            units = [unit for unit in self.files.units if unit.arm == arm]
            choices = max(units, key=lambda unit: unit.n).record.choices if units else None
            if choices is not None and choices.fit_reading and choices.kept_in_words:
                found.setdefault(choices.kept_in_words, []).append(f"“{arm}”")
        return found

    @property
    def filter_shares(self) -> list[float]:
        """Shares of the filters whose prior term a step computes."""
        arms = self.config.target_training.arms.values()
        return sorted({arm.filter_share for arm in arms if arm.prior != NO_PRIOR})

    @property
    def draws(self) -> list[int]:
        """Draws from the posteriors."""
        return sorted({arm.draws for arm in self.config.target_training.arms.values() if arm.is_bayesian})

    @property
    def measures(self) -> list[str]:
        """What was measured, or will be in any case, as a sentence names it."""
        measured = {row.metric.partition("[")[0] for row in self.files.summary} or {"dice", "iou"}
        tolerance = self.config.evaluation.surface_tolerance
        return [m.words.format(tolerance=tolerance) for name, m in METRICS.items() if name in measured]

    @property
    def other_policies(self) -> list[str]:
        """Metrics with a policy of their own for empty masks."""
        options = self.config.evaluation
        return [
            f"{metric_title(name)} ({own.replace('_', ' ')})"
            for name, own in options.policies().items()
            if own != options.empty_masks
        ]

    @property
    def no_interval(self) -> str | None:
        """Why there are no intervals."""
        study = self.files.study
        return None if study is None else why_no_interval(len(study.patients))

    @property
    def resamples(self) -> int:
        """Bootstrap resamples."""
        return self.files.table_settings.resamples

    @property
    def rivals(self) -> list[str]:
        """Arms that the others were compared with."""
        measured = self.files.study.arms if self.files.study else ()
        return [f"“{arm}”" for arm in self.files.table_settings.rivals if arm in measured]

    @property
    def tested(self) -> bool:
        """Whether there are patients enough for a test, and independent ones."""
        study = self.files.study
        return study is not None and len(study.patients) >= self.fewest_for_p and not self.cross_validated

    @property
    def several_repeats(self) -> bool:
        """Whether there is more than one draw of the training patients, so that what differs between draws is known."""
        return self.files.study is not None and len(self.files.study.repeats) > 1

    @property
    def provenance(self) -> Provenance:
        """What ran."""
        return self.files.provenance or Provenance()

    @property
    def software(self) -> list[str]:
        """Packages with their versions."""
        versions = self.provenance.versions
        return [f"{name} {versions[key]}" for key, name in _STACK.items() if key in versions]

    @property
    def commit(self) -> str:
        """The commit in short; empty where it did not run from a checkout."""
        return self.provenance.git_commit.split(" ")[0][:10]


def methods_text(facts: MethodsFacts, paragraph: str) -> str:
    """Writes a paragraph.

    Args:
        facts: of the study.
        paragraph: `data`, `preprocessing`, `networks`, `learning` or `evaluation`.
    """
    module = page_environment(escape=False).get_template("methods_text.j2").module
    # Not all white space: a no-break space is meant.
    return re.sub(r"[ \n]+", " ", str(getattr(module, paragraph)(facts))).strip()


def methods_section(material: Material) -> Section:
    """Builds the section of methods from `config.resolved.yaml` and what the stages wrote."""
    files = material.files
    if files.config is None:
        return Section("methods", "Methods", missing=(files.no_config,))
    facts = MethodsFacts(files, files.config, source_use(files))
    paragraphs = [(title, methods_text(facts, name)) for name, title in _PARAGRAPHS.items()]
    return Section("methods", "Methods", {"paragraphs": paragraphs, "config": as_yaml(files.config)})
