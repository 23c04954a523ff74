"""Banks that are written and read in chunks, and what is drawn from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import WorkspaceError
from models.filter_bank import FilterBank
from models.filter_stream import StreamedQuantiles, draw_filters
from pipeline.storage.stored_bank import StoredBank, write_bank

ROWS = 40
ORDER = [(network, snapshot) for network in (0, 1, 4) for snapshot in (0, 1)]


def snapshot_bank(network: int, snapshot: int) -> FilterBank:
    generator = torch.Generator().manual_seed(10 * network + snapshot)
    rows = torch.arange(ROWS)
    filters = 0.1 * torch.randn(ROWS, 27, generator=generator)
    filters[::4] *= 0.001
    full = torch.full_like
    return FilterBank(filters, rows // 20, rows // 5, rows % 5, full(rows, network), full(rows, snapshot))


@pytest.fixture
def whole() -> FilterBank:
    return FilterBank.concatenate([snapshot_bank(*pair) for pair in ORDER])


@pytest.fixture
def stored(tmp_path: Path) -> StoredBank:
    path = tmp_path / "filters.npy"
    write_bank(path, (snapshot_bank(*pair) for pair in ORDER), (len(ORDER), ROWS))
    return StoredBank(path)


def same(first: FilterBank, second: FilterBank) -> bool:
    return all(torch.equal(value, second.to_tensors()[name]) for name, value in first.to_tensors().items())


def test_the_file_is_one_that_numpy_reads(stored: StoredBank, whole: FilterBank) -> None:
    table = np.load(stored.path)
    assert table.shape == (len(ORDER), ROWS)
    columns = {name: torch.from_numpy(table.ravel()[name].copy()) for name in table.dtype.names}
    assert same(FilterBank.from_tensors(columns), whole)
    assert stored.snapshots == ORDER


def test_a_part_is_what_the_whole_bank_gives(stored: StoredBank, whole: FilterBank) -> None:
    assert (len(stored), stored.networks) == (len(whole), (0, 1, 4))
    assert same(FilterBank.concatenate(list(stored.chunks(rows=7))), whole)
    assert same(stored.load({1}), whole.of_network(1))
    last = FilterBank.concatenate(list(stored.chunks({0, 4}, last_snapshots=True)))
    assert same(last, whole[whole.network != 1].last_snapshots())
    assert stored.count({0, 1}) == 4 * ROWS
    assert stored.count(last_snapshots=True) == 3 * ROWS


@pytest.mark.slow
def test_a_draw_takes_all_or_a_uniform_part(stored: StoredBank, whole: FilterBank) -> None:
    everything = stored.draw(10_000, torch.Generator().manual_seed(0))
    assert same(everything.bank, whole)
    above = whole.above_norm(0.01)
    draw = stored.draw(10_000, None, norm_threshold=0.01)
    assert same(draw.bank, above)
    assert (draw.kept, draw.share_kept) == (len(above), len(above) / len(whole))
    counts = torch.zeros(len(ORDER) * ROWS)
    index = torch.arange(len(whole))
    numbered = FilterBank(whole.filters, index, *[index] * 4)
    for seed in range(400):
        chunks = (numbered[start : start + 17] for start in range(0, len(whole), 17))
        some = draw_filters(chunks, 24, torch.Generator().manual_seed(seed)).bank
        assert len(some) == 24
        assert (some.layer.diff() > 0).all()
        counts[some.layer] += 1
    # Binomial(400, 0.1): mean 40, deviation 6.
    assert abs(float(counts.mean()) - 40) < 1e-4
    assert float(counts.min()) > 15
    assert float(counts.max()) < 70
    assert 4.5 < float(counts.std()) < 7.5


def test_quantiles_of_a_stream() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for most, exact in ((1000, True), (100, False)):
        stream = StreamedQuantiles(len(values), most)
        for part in values.split(37):
            stream.add(part)
        assert stream.stride == 1000 // most
        assert torch.equal(stream.values, values[:: stream.stride])
        found, levels = torch.tensor(stream.quantiles([0.1, 0.5, 0.9])), torch.tensor([0.1, 0.5, 0.9])
        assert torch.allclose(found, torch.quantile(values, levels), atol=1e-7 if exact else 0.15)
    assert StreamedQuantiles(0).quantiles([0.5]) == []


@pytest.mark.parametrize("shape", [(len(ORDER) + 1, ROWS), (len(ORDER) - 1, ROWS), (len(ORDER), ROWS + 1)])
def test_a_bank_that_is_not_what_was_announced_does_not_take_its_name(tmp_path: Path, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="in a bank of"):
        write_bank(tmp_path / "filters.npy", (snapshot_bank(*pair) for pair in ORDER), shape)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["missing", "cut", "text", "another table", "not finite"])
def test_a_damaged_bank_is_refused_with_its_path(stored: StoredBank, fault: str) -> None:
    path, content = stored.path, stored.path.read_bytes()
    table = np.load(path)
    if fault == "missing":
        path.unlink()
    elif fault == "not finite":
        table["filters"][1, 2, 3] = np.nan
        np.save(path, table)
    elif fault == "another table":
        np.save(path, table["filters"])
    else:
        path.write_bytes(content[:-1] if fault == "cut" else b"filters")
    with pytest.raises(WorkspaceError, match=r"filters\.npy: "):
        StoredBank(path).load()
