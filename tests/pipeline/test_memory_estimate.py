"""Memory: what lives during a step, what a training is estimated to take, and what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.errors import TrainingError
from models.deep_supervision import DeepSupervisionLoss
from models.networks.factory import build_network, coarsest_factors
from models.networks.monai_networks import DynUNetOptions, SegResNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNetOptions
from models.objectives import SegmentationLoss
from pipeline.training.available_memory import available_memory
from pipeline.training.live_memory import LiveMemory
from pipeline.training.memory_estimate import (
    MemoryEstimate,
    estimate_training_memory,
    fitting_patches,
    in_words,
    require_memory,
)
from pipeline.training.patches import PatchOptions

NETWORKS = {
    "residual_unet": ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 1)),
    "deep residual_unet": ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 1), deep_supervision=1),
    "unet": UNetOptions(channels=(4, 6, 8)),
    "dynunet": DynUNetOptions(channels=(4, 6, 8)),
    "segresnet": SegResNetOptions(initial_channels=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1)),
}
SMALL = NETWORKS["residual_unet"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_storages_count_from_when_they_are_made_until_they_are_freed(device: str) -> None:
    before = torch.zeros(1000, device=device)
    with LiveMemory(large=1000) as memory:
        first = torch.zeros(100, device=device)
        view = first.reshape(10, 10)[:, 2:]
        first += before[:100]
        assert (memory.live, memory.small) == (400, 400)
        second = first.double()[None].expand(5, 100) + torch.zeros(5, 1, dtype=torch.float64, device=device)
        assert memory.live == 400 + 5 * 800
        del first
        assert memory.live == 400 + 5 * 800  # the view holds it
        del view, second
        assert memory.live == 0
    assert memory.peak == 400 + 800 + 40 + 5 * 800
    assert memory.small_peak == 400 + 800 + 40


def test_what_backward_needs_lives_until_backward() -> None:
    weight = torch.ones(50, requires_grad=True)
    with LiveMemory() as memory:
        loss = (weight.exp().sin() * 2).sum()
        held = memory.live
        loss.backward()
        del loss
    assert held == 200 + 4  # the value of exp, which both derivatives need, and the sum
    assert memory.live == 200  # the gradient


def test_a_convolution_counts_with_channels_filled_up_to_sixteen() -> None:
    with LiveMemory() as memory:
        torch.nn.functional.conv3d(torch.zeros(2, 1, 4, 4, 4), torch.zeros(17, 1, 3, 3, 3))
    assert memory.convolution == 4 * (2 * 16 * 64 + 2 * 32 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_estimate_is_what_a_step_holds_in_every_network(name: str) -> None:
    patches = PatchOptions(size=(16, 12, 8), batch=2)
    estimate = estimate_training_memory(NETWORKS[name], 2, 3, patches)
    network = build_network(NETWORKS[name], 2, 3)
    weights = 4 * sum(p.numel() for p in network.parameters())
    assert (estimate.parameters, estimate.fixed) == (weights, 4 * weights)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveMemory() as memory:
        images, labels = torch.randn(2, 2, 16, 12, 8), torch.zeros(2, 16, 12, 8, dtype=torch.int64)
        DeepSupervisionLoss(SegmentationLoss())(network(images), labels).backward()
    assert estimate.activations == pytest.approx(memory.peak, rel=0.02)
    assert estimate.workspace == pytest.approx(2 * memory.convolution + memory.small_peak, rel=0.02)
    assert estimate.total == 4 * weights + estimate.activations + estimate.workspace


@pytest.mark.parametrize("name", ["residual_unet", "dynunet"])
def test_half_precision_is_what_a_step_under_autocast_holds(name: str) -> None:
    patches = PatchOptions(size=(16, 16, 16), batch=2)
    estimate = estimate_training_memory(NETWORKS[name], 1, 2, patches, precision="bfloat16")
    network = build_network(NETWORKS[name], 1, 2)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveMemory() as memory:
        images, labels = torch.randn(2, 1, 16, 16, 16), torch.zeros(2, 16, 16, 16, dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        SegmentationLoss()(logits.float(), labels).backward()
    assert estimate.activations == pytest.approx(memory.peak, rel=0.2)
    assert estimate.parameters == 4 * sum(p.numel() for p in network.parameters())
    assert estimate.activations < estimate_training_memory(NETWORKS[name], 1, 2, patches).activations


def test_activations_are_linear_in_the_batch_and_a_gpu_has_no_heap() -> None:
    one, two = (estimate_training_memory(SMALL, 1, 2, PatchOptions(size=(16, 16, 16), batch=batch)) for batch in (1, 2))
    assert two.activations == pytest.approx(2 * one.activations, rel=0.05)
    assert two.fixed == one.fixed
    gpu = estimate_training_memory(SMALL, 1, 2, PatchOptions(size=(16, 16, 16), batch=1), device="cuda")
    assert gpu.activations == one.activations
    assert gpu.workspace < one.workspace


def test_what_fits_is_let_through() -> None:
    estimate = estimate_training_memory(SMALL, 1, 2, PatchOptions(size=(16, 16, 16), batch=2))
    require_memory(estimate, estimate.total)
    require_memory(estimate, 3 * estimate.total, units=3)
    with pytest.raises(TrainingError):
        require_memory(estimate, estimate.total - 1)
    with pytest.raises(TrainingError):
        require_memory(estimate, 3 * estimate.total - 1, units=3)


def estimated(size: tuple[int, int, int], batch: int) -> MemoryEstimate:
    return estimate_training_memory(SMALL, 1, 2, PatchOptions(size=size, batch=batch))


@pytest.mark.slow
def test_fewer_patches_come_before_smaller_ones_and_what_is_named_fits() -> None:
    estimate = estimated((24, 16, 17), 3)
    two = estimated((24, 16, 17), 2).total
    with pytest.raises(TrainingError, match=r"set patches\.batch to 2 \(") as caught:
        require_memory(estimate, two)
    assert "patches.size to" not in str(caught.value)
    assert in_words(estimate.total) in str(caught.value)
    assert in_words(two) in str(caught.value)
    one = estimated((24, 16, 17), 1).total
    fitting = fitting_patches(estimate, one - 1)
    assert fitting is not None
    assert (fitting.batch, fitting.size) == (1, (20, 16, 17))  # the longest axis, to a multiple of 4
    fitting = fitting_patches(estimate, one // 2)
    assert fitting is not None
    assert estimated(fitting.size, fitting.batch).total <= one // 2
    sides = zip(fitting.size, (24, 16, 17), strict=True)
    assert all(side % coarsest_factors(SMALL)[0] == 0 for side, before in sides if side != before)
    with pytest.raises(TrainingError, match=rf"patches\.batch to 1 and patches\.size to \{list(fitting.size)}"):
        require_memory(estimate, one // 2)


def test_fewer_at_a_time_is_named_where_that_helps() -> None:
    estimate = estimated((16, 16, 16), 2)
    with pytest.raises(TrainingError, match=r"each of 4 trainings at a time.*--jobs 3\)"):
        require_memory(estimate, int(3.5 * estimate.total), units=4)
    with pytest.raises(TrainingError) as caught:
        require_memory(estimate, estimate.total - 1, units=1)
    assert "--jobs" not in str(caught.value)


def test_no_patch_is_named_where_not_even_the_smallest_fits() -> None:
    estimate = estimated((16, 16, 16), 2)
    assert fitting_patches(estimate, estimate.fixed) is None
    with pytest.raises(TrainingError, match="fewer channels"):
        require_memory(estimate, estimate.fixed)
    smallest = estimated((8, 8, 8), 1).total
    fitting = fitting_patches(estimate, smallest)
    assert fitting is not None
    assert fitting.size == (8, 8, 8)


def test_one_line_says_it_all() -> None:
    line = estimated((16, 16, 16), 2).describe()
    assert "\n" not in line
    assert all(word in line for word in ("2 patches of 16×16×16", "weights", "gradients", "AdamW", "activations"))
    assert (in_words(3_249_000_000), in_words(410_400_000)) == ("3.2 GB", "410 MB")


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_without_limits_has_what_it_says(tmp_path: Path) -> None:
    assert available_memory("cpu", machine(tmp_path, {})) == 8000 * 1024
    assert available_memory("cpu") > 0


def test_a_control_group_leaves_its_limit_less_what_is_used_and_not_cache(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/slurm/job"
    files = {
        "proc/self/cgroup": "0::/slurm/job/step\n",
        "sys/fs/cgroup/slurm/memory.max": "max\n",
        "sys/fs/cgroup/slurm/memory.current": "1\n",
        f"{group}/memory.max": "5000000\n",
        f"{group}/memory.current": "3000000\n",
        f"{group}/memory.stat": "anon 2000000\ninactive_file 400000\n",
    }
    assert available_memory("cpu", machine(tmp_path, files)) == 2_400_000


def test_the_first_version_of_control_groups_counts_too(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {
        # Inside a container: the path of the host is not there, the root of the container's own group is.
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/1a\n3:memory:/docker/1a\n",
        f"{group}/memory.limit_in_bytes": "1000000",
        f"{group}/memory.usage_in_bytes": "900000",
        f"{group}/memory.stat": "cache 5\ntotal_inactive_file 50000\n",
    }
    assert available_memory("cpu", machine(tmp_path, files)) == 150_000
