"""The section of priors and the page of filters, built from a small workspace with real banks and fitted densities."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer
from PIL import Image

from models.filter_bank import FilterBank, SourceState
from models.filters import FilterLayer, filter_positions
from models.priors.factory import build_prior
from models.priors.gaussian_options import GaussianOptions
from models.priors.standardisation import Covariance
from models.priors.vae_options import FilterVAEOptions
from pipeline.config.report_options import ReportOptions
from pipeline.priors.filter_summary import FilterSummary
from pipeline.priors.structure_record import FilterStructure, OverNetworks
from pipeline.report.build import build_report
from pipeline.report.density_figure import density_figure
from pipeline.report.density_scores import read_scores
from pipeline.report.figure_style import figure_style
from pipeline.report.page import page_environment
from pipeline.report.picture import PictureFolder
from pipeline.report.prior_section import prior_section
from pipeline.report.section import Material
from pipeline.report.study_files import StudyFiles
from pipeline.storage.atomic import write_record
from pipeline.storage.stored_bank import write_bank
from pipeline.storage.tensors import save_tensors

WritePages = Callable[..., tuple[str, str]]
LAYERS = (FilterLayer("a.weight", 4, 6, False), FilterLayer("b.weight", 6, 4, True))
GROUPS = {"encoder_1": LAYERS[:1], "decoder_1": LAYERS[1:]}
QUICK = ReportOptions(dpi=60, filters_sampled=300, filters_shown=6, vector_figures=False)
DENSITIES = {
    "isotropic": GaussianOptions(covariance=Covariance.ISOTROPIC),
    "gaussian_full": GaussianOptions(),
    "vae": FilterVAEOptions(latent="auto", hidden=(8,), max_steps=20, batch=64),
}
SCORES = {
    "encoder_1": {"isotropic": (40.75, -8.0, 0.75), "gaussian_full": (48.75, 0.0, 0.0), "vae": (49.5, 0.75, 0.125)},
    "decoder_1": {"isotropic": (30.5, -1.25, 0.25), "gaussian_full": (31.75, 0.0, 0.0), "vae": (31.0, -0.75, 0.5)},
}
REASON = "centred on source network 0, and channels of other networks are permuted"
SENTENCE = "There is little to learn here"


def _states(root: Path, generator: torch.Generator) -> list[SourceState]:
    """Four networks of two snapshots: filters of the encoder move by half their norm, those of the decoder by 3 %."""
    states = []
    for network in range(4):
        folder = root / f"train-source/network-{network:02d}"
        initial = {layer.parameter: 0.1 * torch.randn(layer.weight_shape, generator=generator) for layer in LAYERS}
        save_tensors(folder / "initial.safetensors", initial)
        for snapshot in range(2):
            moved = {"a.weight": 0.5, "b.weight": 0.03}
            trained = {
                name: value + moved[name] * 0.1 * torch.randn(value.shape, generator=generator)
                for name, value in initial.items()
            }
            save_tensors(folder / f"snapshot-{snapshot:02d}.safetensors", trained)
            states.append(SourceState(network, snapshot, trained))
    return states


def _scores(group: str, over: str = "networks") -> dict[str, Any]:
    densities = {
        name: {
            "mean": mean, "standard_error": 0.5, "standard_error_over": over, "bound": name == "vae",
            "difference_to_gaussian_full": {"mean": difference, "standard_error": error},
            **({"latent": 8} if name == "vae" else {}),
        }
        for name, (mean, difference, error) in SCORES[group].items()
    }  # fmt: skip
    return {"group": group, "fitted_on": 100, "held_out": 24, "held_out_networks": "filters of network 3",
            "norm_threshold": 0.3, "kept": 180, "share_kept": 0.9375,
            "auto": {"density": {"encoder_1": "vae", "decoder_1": "gaussian_full"}[group]},
            "densities": densities, "not_scored": {"around_source": REASON}}  # fmt: skip


def structure_of(group: str, **changes: Any) -> FilterStructure:
    still = {"encoder_1": 0.25, "decoder_1": 0.95}[group]
    return FilterStructure(
        group=group, networks=4, filters=24, norm_threshold=0.3,
        effective_dimension=OverNetworks(mean=12.5, low=11.0, high=14.0),
        intrinsic_dimension=OverNetworks(mean=7.25, low=7.0, high=7.5),
        two_nearest_dimension=OverNetworks(mean=8.5, low=8.0, high=9.0),
        still_start=OverNetworks(mean=still, low=still - 0.05, high=still + 0.05),
        start_left=OverNetworks(mean=0.5, low=0.4, high=0.6),
        under_threshold=OverNetworks(mean=0.0, low=0.0, high=0.0),
    ).model_copy(update=changes)  # fmt: skip


def build_workspace(root: Path, configure: Callable[[Path, dict[str, Any]], None]) -> Path:
    generator = torch.Generator().manual_seed(3)
    states = _states(root, generator)
    densities = {name: options.model_dump(mode="json") for name, options in DENSITIES.items()}
    configure(root, {"name": "small", "seed": 5, "priors": {"densities": densities}})
    for group, layers in GROUPS.items():
        folder = root / "collect-filters" / group
        positions = filter_positions(layers, LAYERS)
        snapshots = [FilterBank.from_state(state, layers, positions) for state in states]
        bank = FilterBank.concatenate(snapshots)
        write_bank(folder / "filters.npy", snapshots, (len(states), layers[0].count))
        moved = {"encoder_1": 0.5, "decoder_1": 0.03}[group]
        summary = FilterSummary(
            group=group, layers=tuple(layer.parameter for layer in layers), networks=(0, 1, 2, 3), snapshots=2,
            filters=len(bank), norm_quantile_levels=(0.0, 0.5, 1.0), norm_quantiles=(0.1, 0.5, 0.9),
            moved_from_initial=moved, moved_quantiles=(0.0, moved, 1.0), moved_by_network={"0": moved},
        )  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary.as_json()))
        write_record(root / "measure-filters" / group / "structure.json", structure_of(group))
        for name, options in DENSITIES.items():
            prior = build_prior(options)
            prior.fit(bank, generator)
            save_tensors(root / f"fit-priors/{group}/{name}/density.safetensors", prior.state_dict())
        (root / f"compare-priors/{group}").mkdir(parents=True)
        (root / f"compare-priors/{group}/scores.json").write_text(json.dumps(_scores(group)))
    return root


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, configure: Callable[[Path, dict[str, Any]], None]) -> Path:
    return build_workspace(tmp_path_factory.mktemp("filters"), configure)


@pytest.fixture(scope="module")
def pages(workspace: Path) -> Mapping[str, str]:
    index = build_report(workspace, QUICK)
    return {"index": index.read_text(), "filters": (workspace / "report/filters.html").read_text()}


@pytest.fixture
def write_pages(without_drawing: None) -> WritePages:
    """Returns a function that builds the section and the page of filters, which is empty where there is none."""

    def write(root: Path, **options: Any) -> tuple[str, str]:
        chosen = QUICK.model_copy(update=options)
        with figure_style():
            section = prior_section(Material(StudyFiles(root), chosen, PictureFolder(root / "report/figures", 50)))
        page = root / "report/filters.html"
        html = page_environment().get_template("priors.html.j2").render(content=section.content)
        return html, page.read_text() if page.exists() else ""

    return write


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    # Without the report, whose pages other tests have written by hand.
    return Path(shutil.copytree(workspace, tmp_path / "copy", ignore=shutil.ignore_patterns("report")))


def _plain(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html))).strip()


def _table(page: str, name: str) -> dict[str, list[str]]:
    body = page[page.index(f'<table id="{name}"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    lines = [[_plain(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in body.split("</tr>")]
    return {line[0]: line[1:] for line in lines if line}


@pytest.mark.slow
def test_held_out_table_holds_the_numbers_of_the_files(pages: Mapping[str, str]) -> None:
    table = _table(pages["index"], "nats")
    assert list(table) == ["encoder_1", "decoder_1"]
    assert table["encoder_1"] == [
        "100", "24", "40.75 ± 0.50 −8.00 ± 0.75", "48.75 ± 0.50", "≥ 49.50 ± 0.50 auto 8 latent dimensions +0.75 ± 0.12"
    ]  # fmt: skip
    assert table["decoder_1"][2:] == [
        "30.50 ± 0.50 −1.25 ± 0.25",
        "31.75 ± 0.50 auto",
        "≥ 31.00 ± 0.50 8 latent dimensions −0.75 ± 0.50",
    ]


def test_a_density_that_cannot_be_scored_is_named_once_with_the_reason(pages: Mapping[str, str]) -> None:
    named = re.findall(r"<li><code>around_source</code>(.*?)</li>", pages["index"])
    assert len(named) == 1
    assert named[0] == f": {REASON}."


def test_the_reason_that_a_file_gives_is_kept_with_its_group(copy: Path, write_pages: WritePages) -> None:
    path = copy / "compare-priors/decoder_1/scores.json"
    path.write_text(json.dumps(_scores("decoder_1") | {"not_scored": {"mine": "it has no <density>"}}))
    page, _ = write_pages(copy)
    assert "<code>mine</code> in decoder_1: it has no &lt;density&gt;." in page
    assert "<code>around_source</code> in encoder_1:" in page


def test_says_where_a_vae_beats_the_gaussian(pages: Mapping[str, str]) -> None:
    assert "in 1 of 2 groups. It is not in decoder_1." in _plain(pages["index"])
    assert "A single network was held out" not in pages["index"]


@pytest.mark.slow
def test_an_error_over_filters_of_one_network_decides_nothing(copy: Path, write_pages: WritePages) -> None:
    path = copy / "compare-priors/encoder_1/scores.json"
    path.write_text(json.dumps(_scores("encoder_1", "filters of one network")))
    text = _plain(write_pages(copy)[0])
    assert "in 0 of 1 groups. For encoder_1 that error is not known." in text
    assert "A single network was held out for encoder_1:" in text
    path = copy / "compare-priors/decoder_1/scores.json"
    path.write_text(json.dumps(_scores("decoder_1", "filters of one network")))
    text = _plain(write_pages(copy)[0])
    assert "cannot tell whether a variational auto-encoder is better" in text
    assert "A single network was held out for every group:" in text


def test_says_where_there_is_little_to_learn(pages: Mapping[str, str], copy: Path, write_pages: WritePages) -> None:
    for page in pages.values():
        assert SENTENCE in _plain(page)
        assert "In 1 of 2 groups, more than 30 % of the energy" in _plain(page)
        assert "decoder_1 (95 %)" in _plain(page)
        assert "<code>source_training.steps_per_cycle</code>" in page
        assert "`" not in _plain(page)
    learned = OverNetworks(mean=0.3, low=0.1, high=0.5)
    write_record(copy / "measure-filters/decoder_1/structure.json", structure_of("decoder_1", still_start=learned))
    assert not any(SENTENCE in page for page in write_pages(copy))


def test_of_a_pack_without_its_filters_it_says_so_too(copy: Path, write_pages: WritePages) -> None:
    shutil.rmtree(copy / "collect-filters")
    index, page = write_pages(copy)
    assert SENTENCE in _plain(index)
    assert not page


@pytest.mark.slow
def test_groups_that_were_not_measured_are_shown_without_numbers(copy: Path, write_pages: WritePages) -> None:
    shutil.rmtree(copy / "measure-filters")
    index, page = write_pages(copy)
    assert SENTENCE not in _plain(index)
    encoder = _table(page, "change")["encoder_1"]
    # What the sample of the bank tells stays.
    assert float(encoder[3].split(" → ")[1]) == pytest.approx(float(encoder[3].split(" → ")[0]), abs=4)
    assert encoder[4:8] == ["–", "–", "–", "–"]


@pytest.mark.slow
@pytest.mark.parametrize(("least", "unused"), [(1e9, True), (-1.0, False)])
def test_a_vae_that_uses_none_of_its_latents_is_named_on_the_index(
    copy: Path, write_pages: WritePages, monkeypatch: pytest.MonkeyPatch, least: float, unused: bool
) -> None:
    monkeypatch.setattr("pipeline.report.latent_traversal.USED", least)
    text = _plain(write_pages(copy)[0])
    assert ("The VAE “vae” uses none of its latents in every group" in text) == unused


def test_difference_figure_shows_the_numbers_of_the_files(workspace: Path) -> None:
    axes = density_figure(read_scores(workspace, StudyFiles(workspace).densities()), "gaussian_full").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["encoder_1", "decoder_1"]
    assert axes.get_yscale() == "linear"
    bars = {c.get_label(): c for c in axes.containers if isinstance(c, ErrorbarContainer)}
    assert set(bars) == {"isotropic", "vae"}
    for name, bar in bars.items():
        line, _, (segments,) = bar.lines
        wanted = [SCORES[group][name] for group in ("encoder_1", "decoder_1")]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [difference for _, difference, _ in wanted])
        heights = [np.ptp(segment[:, 1]) / 2 for segment in segments.get_segments()]
        np.testing.assert_allclose(heights, [error for *_, error in wanted])
    rings = np.asarray(axes.collections[-1].get_offsets())
    np.testing.assert_allclose(rings[:, 1], [0.75, 0.0])


def test_far_differences_make_the_axis_logarithmic_beyond_one_nat(copy: Path) -> None:
    path = copy / "compare-priors/encoder_1/scores.json"
    scores = _scores("encoder_1")
    scores["densities"]["isotropic"]["difference_to_gaussian_full"]["mean"] = -40.0
    path.write_text(json.dumps(scores))
    axes = density_figure(read_scores(copy, {}), "gaussian_full").axes[0]
    assert axes.get_yscale() == "symlog"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["−30", "−10", "−3", "−1", "−0.5", "0", "0.5", "1"]


def _pictures(page: str) -> dict[str, Image.Image]:
    found = {}
    for uri, alt in re.findall(r'<img src="([^"]*)" alt="([^"]*)"', page):
        found[unescape(alt)] = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return found


def test_page_of_filters_shows_every_group_and_no_blank_picture(pages: Mapping[str, str]) -> None:
    pictures = _pictures(pages["filters"])
    # In the encoder the VAE is the choice of auto and is shown once.
    for group, shown in (
        ("encoder_1", "Trained filters and Samples of vae"),
        ("decoder_1", "Trained filters, Samples of gaussian_full and Samples of vae"),
    ):
        assert f"{shown} of group {group}, each as three orthogonal slices" in pictures
        assert f"What the decoder of vae makes of each axis of its latent, group {group}" in pictures
        assert f"From one filter to another through the latent of vae, group {group}" in pictures
    assert len(pictures) == 3 + 3 * len(GROUPS)
    for alt, picture in pictures.items():
        colours = picture.getcolors(1_000_000) or []
        white = sum(count for count, colour in colours if min(colour) > 250)
        assert len(colours) > 20, alt
        assert white < 0.95 * picture.width * picture.height, alt
    assert "Missing" not in pages["filters"]


def test_page_of_filters_is_linked_and_needs_no_other_file(pages: Mapping[str, str], workspace: Path) -> None:
    assert 'href="filters.html"' in pages["index"]
    page = pages["filters"]
    assert set(re.findall(r'href="([^"#]*)', page)) == {"index.html", "data:,", ""}
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in page
    anchors = set(re.findall(r'href="#([^"]*)"', page))
    assert anchors == {"training", "group-1", "group-2"}
    assert anchors <= set(re.findall(r'id="([^"]*)"', page))
    assert len(page) < 1_000_000
    assert (workspace / "report/figures/filters-encoder_1-samples.png").is_file()


def test_table_of_change_tells_how_far_filters_moved(pages: Mapping[str, str]) -> None:
    table = _table(pages["filters"], "change")
    encoder, decoder = table["encoder_1"], table["decoder_1"]
    assert 45 <= float(encoder[0].removesuffix(" %")) <= 55
    assert 2.7 <= float(decoder[0].removesuffix(" %")) <= 3.3
    assert (encoder[2], decoder[2]) == ("0 %", "100 %")
    assert encoder[3].endswith("→ 12.5")
    assert encoder[4] == "7.2 8.5"
    assert encoder[5:8] == ["25 % 20 % to 30 %", "50 % 40 % to 60 %", "0 % 0 % to 0 %"]
    assert encoder[-1] == "96 of 96 4 networks"


def test_a_structure_of_an_earlier_version_shows_no_intrinsic_dimension(copy: Path, write_pages: WritePages) -> None:
    older = structure_of("decoder_1", intrinsic_dimension=None, two_nearest_dimension=None)
    write_record(copy / "measure-filters/decoder_1/structure.json", older)
    table = _table(write_pages(copy)[1], "change")
    assert table["decoder_1"][4] == "–"
    assert table["encoder_1"][4] == "7.2 8.5"


def test_the_page_says_that_a_latent_is_as_large_as_the_filters_ask(pages: Mapping[str, str]) -> None:
    assert "because the filters of this group have that intrinsic dimension, rounded up." in pages["filters"]
    assert "Latent dimensions are those that the filters have themselves" in _plain(pages["index"])


@pytest.mark.slow
def test_same_files_give_the_same_pictures(workspace: Path, pages: Mapping[str, str], copy: Path) -> None:
    build_report(copy, QUICK)
    assert (copy / "report/filters.html").read_text() == pages["filters"]
    assert "Missing" not in pages["filters"]


def test_without_source_networks_the_page_says_what_cannot_be_told(copy: Path, write_pages: WritePages) -> None:
    shutil.rmtree(copy / "train-source")
    text = _plain(write_pages(copy)[1])
    assert "train-source/ holds no initial weights" in text
    assert "Distance from the initialisation" not in text


@pytest.mark.slow
def test_a_density_that_is_not_there_or_does_not_load_is_named_and_the_rest_is_shown(
    copy: Path, write_pages: WritePages
) -> None:
    (copy / "fit-priors/decoder_1/vae/density.safetensors").unlink()
    shutil.copy(
        copy / "fit-priors/encoder_1/isotropic/density.safetensors",
        copy / "fit-priors/encoder_1/vae/density.safetensors",
    )
    _, page = write_pages(copy)
    assert "fit-priors/decoder_1/vae/ is missing: &#39;graft fit-priors&#39; writes it." in page
    assert "fit-priors/encoder_1/vae/density.safetensors: does not fit the options of &#39;vae&#39;" in page
    assert "Trained filters and Samples of gaussian_full of group decoder_1, each" in page


def test_without_banks_there_is_no_page(copy: Path, write_pages: WritePages) -> None:
    for path in copy.glob("collect-filters/*/filters.npy"):
        path.unlink()
    page, filters = write_pages(copy)
    assert "no longer in collect-filters/" in page
    assert "filters.html" not in page
    assert not filters


def test_a_bank_that_cannot_be_read_is_named_and_the_rest_is_shown(copy: Path, without_drawing: None) -> None:
    (copy / "collect-filters/encoder_1/filters.npy").write_bytes(b"not tensors")
    material = Material(StudyFiles(copy), QUICK, PictureFolder(copy / "report/figures", 50))
    (missing,) = prior_section(material).missing
    assert "collect-filters/encoder_1/filters.npy" in missing
    assert "decoder_1" in (copy / "report/filters.html").read_text()


def test_groups_beyond_the_limit_are_named(copy: Path, write_pages: WritePages) -> None:
    text = _plain(write_pages(copy, filter_groups=1)[1])
    assert "Groups not shown on this page: decoder_1." in text
