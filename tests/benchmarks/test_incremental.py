"""The benchmark of source sets that arrive one after the other, on three tiny workspaces."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.filter_bank import FilterBank
from models.priors.incremental import IncrementalMethod
from pipeline.storage.file_names import BANK
from pipeline.storage.stored_bank import write_bank

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    import incremental

    yield incremental
    torch.set_num_threads(threads)


def workspace(path: Path, place: float) -> Path:
    """Writes the filters of three networks around a place of their own."""
    rows = torch.arange(60)

    def banks():
        for network in range(3):
            filters = place + 0.1 * torch.randn(60, 27, generator=torch.Generator().manual_seed(network))
            yield FilterBank(
                filters, 0 * rows, rows // 20, rows % 20, torch.full_like(rows, network), torch.zeros_like(rows)
            )

    folder = path / "collect-filters" / "g"
    folder.mkdir(parents=True)
    write_bank(folder / BANK, banks(), (3, 60))
    return path


@pytest.mark.slow
def test_three_workspaces_arrive_and_a_stopped_run_goes_on(benchmark, tmp_path: Path, monkeypatch) -> None:
    workspaces = [workspace(tmp_path / name, place) for name, place in (("one", 0.0), ("two", 1.0), ("three", -1.0))]
    output = tmp_path / "out"
    argv = ["incremental.py", "filters", *map(str, workspaces), "--output", str(output), "--seeds", "1"]
    small = {"steps": 3, "batch": 16, "components": 2, "component-steps": 1, "samples": 4, "draws": 40}
    small |= {"ewc-weights": 1, "memory-weights": 1}
    argv += [word for name, value in small.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", argv)
    benchmark.main()
    records = {path.name: json.loads(path.read_text()) for path in sorted(output.glob("g-*.json"))}
    assert {record["settings"]["method"] for record in records.values()} == set(IncrementalMethod)
    for record in records.values():
        assert [len(arrival["test"]) for arrival in record["arrivals"]] == [1, 2, 3]
        balance = record["arrivals"][-1]["balance"]
        assert sum(balance["shares"]) == pytest.approx(1)
        # The sets lie far apart, so a classifier knows them and would see whether samples are balanced.
        assert balance["accuracy"] == 1.0
        assert balance["divergence_of_real"] == pytest.approx(0, abs=1e-9)
    table = (output / "g.md").read_text()
    assert table.startswith("g: one, two, three")
    assert all(title in table for title in benchmark.NAMES.values())

    lost, kept = sorted(output.glob("g-*.json"))[:2]
    lost.unlink()
    before = kept.stat().st_mtime_ns
    benchmark.main()
    assert kept.stat().st_mtime_ns == before
    assert json.loads(lost.read_text())["arrivals"] == records[lost.name]["arrivals"]
    assert (output / "g.md").read_text() == table


def test_balance_is_measured_from_the_uniform_shares(benchmark) -> None:
    assert benchmark.divergence(np.full(4, 0.25)) == pytest.approx(0)
    assert benchmark.divergence(np.array([0.0, 1.0])) == pytest.approx(math.log(2))


def test_cubes_are_centred_on_the_structure_and_padded_outside_the_scan(benchmark) -> None:
    import source_sets

    image = np.arange(5**3, dtype=np.float32).reshape(5, 5, 5)
    structure = np.zeros((5, 5, 5), bool)
    structure[0, 2, 4] = True
    [cube] = source_sets._cubes(image, structure, 4, 1, np.random.default_rng(0))
    cube = cube.reshape(4, 4, 4)
    assert cube[2, 2, 2] == image[0, 2, 4]
    assert (cube[:2] == 0).all()
    assert (cube[..., 3] == 0).all()
    assert np.array_equal(cube[2:, :, :3], image[:2, :4, 2:])
