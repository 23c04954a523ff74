"""Builds the report of a workspace: `report/index.html`, one file that needs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config.report_options import ReportOptions
from pipeline.report.calibration_section import calibration_section
from pipeline.report.case_plan import read_cases
from pipeline.report.case_section import case_section
from pipeline.report.figure_style import figure_style
from pipeline.report.headline import headline
from pipeline.report.image_model_section import image_model_section
from pipeline.report.label_audit_section import label_audit_section
from pipeline.report.label_efficiency_section import label_efficiency_section
from pipeline.report.measures_section import measures_section
from pipeline.report.methods_section import methods_section
from pipeline.report.overlay_section import overlay_section
from pipeline.report.page import page_environment
from pipeline.report.picture import PictureFolder
from pipeline.report.prior_section import prior_section
from pipeline.report.provenance_section import provenance_section
from pipeline.report.quality_section import quality_section
from pipeline.report.result_section import result_section
from pipeline.report.section import Material, Section
from pipeline.report.study_files import StudyFiles
from pipeline.report.summary_json import study_summary
from pipeline.report.training_section import source_section, target_section
from pipeline.report.translation_section import translation_section
from pipeline.report.uncertainty_section import uncertainty_section
from pipeline.storage.atomic import write_record, write_text
from pipeline.storage.file_names import FILES, INDEX, RESULTS, SUMMARY_JSON
from pipeline.storage.owned_folder import owned_folder
from pipeline.storage.stage_names import Stage

logger = logging.getLogger(__name__)

SECTIONS: tuple[Callable[[Material], Section], ...] = (
    result_section,
    label_efficiency_section,
    calibration_section,
    uncertainty_section,
    overlay_section,
    case_section,
    label_audit_section,
    quality_section,
    translation_section,
    source_section,
    image_model_section,
    prior_section,
    target_section,
    measures_section,
    methods_section,
    provenance_section,
)
_OF_TESTS = {
    label_efficiency_section,
    calibration_section,
    uncertainty_section,
    overlay_section,
    case_section,
    label_audit_section,
    measures_section,
}


def _sections(files: StudyFiles) -> Sequence[Callable[[Material], Section]]:
    """All sections of the study: none of image models or a translation without these; of tests the first alone."""
    if files.config is None:
        return SECTIONS
    absent = set() if files.config.target.tested else _OF_TESTS
    absent = absent if files.config.image_models else {*absent, image_model_section}
    absent = absent if files.config.translates_source else {*absent, translation_section}
    return [section for section in SECTIONS if section not in absent]


def build_report(
    workspace: Path, options: ReportOptions | None = None, *, jobs: int = 1, stale: Sequence[str] = ()
) -> Path:
    """Writes the report of a study from the files of its workspace.

    Args:
        workspace: the folder of the study; stages that have not run yet leave a section that says what is missing.
        options: what to show.
        jobs: pages of cases made at a time.
        stale: sentences on results that were made with other settings or inputs than the configuration at hand.

    Returns:
        Path of `report/index.html`; figures also lie beside it in `figures/` as PNG and SVG, the pages of the test
        cases in `cases/`, and the numbers in `results/summary.json`.

    Raises:
        WorkspaceError: the folder is missing, a file in it is damaged, or a file of an earlier report was changed.
    """
    chosen = options or ReportOptions()
    files = StudyFiles(workspace)
    with owned_folder(workspace / Stage.REPORT, FILES) as folder:
        material = Material(files, chosen, PictureFolder(folder / "figures", chosen.dpi, chosen.vector_figures))
        material = replace(material, readings=read_cases(material, folder, jobs))
        with figure_style():
            sections = [build(material) for build in _sections(files)]
        head = headline(files, sections[0])
        page = page_environment().get_template("report.html.j2").render(head=head, sections=sections, stale=stale)
        write_text(folder / INDEX, page)
    path = workspace / Stage.REPORT / INDEX
    if files.summary:
        write_record(workspace / RESULTS / SUMMARY_JSON, study_summary(files))
    logger.info("report of %s written to %s (%.1f MB)", workspace, path, len(page.encode()) / 1e6)
    return path
