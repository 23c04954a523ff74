"""The model folder: what is written is what is read, and anything else is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from data.errors import ModelError, WorkspaceError
from models.posteriors.mean_field import MeanField
from pipeline.deployment.model_description import FORMAT, label_values
from pipeline.deployment.model_folder import CHECKSUMS, DESCRIPTION, Model, member_name, read_description, read_model


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def passes(model: Model, samples: int) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [own.member.with_weights(draw) for own in model.draws(samples, "cpu") for draw in own]


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes the description and gives it a right checksum."""
    raw = json.loads((folder / DESCRIPTION).read_text())
    change(raw)
    (folder / DESCRIPTION).write_text(json.dumps(raw))
    sign(folder)


def sign(folder: Path) -> None:
    names = sorted(p.name for p in folder.iterdir() if p.name != CHECKSUMS)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / CHECKSUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def test_what_is_read_predicts_like_what_was_written(make_model: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model(tmp_path / "two", members=2, channels=("T1", "FLAIR"), classes={"core": 2, "rim": 7})
    found = read_model(path)
    assert found.description.classes == {"core": 2, "rim": 7}
    assert found.description.format == FORMAT
    assert len(found.members) == 2
    assert all(isinstance(member.posterior, MeanField) for member in found.members)
    images = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second = (member(images) for member in found.members)
    assert first.shape == (1, 3, 8, 8, 8)
    assert not torch.equal(first, second)
    again = read_model(path)
    assert torch.equal(again.members[0](images), first)
    assert again.digest == found.digest
    # Draws are a function of the model alone, and differ from each other.
    one, two = ([forward(images) for forward in passes(found, 2)] for _ in range(2))
    assert len(one) == sum(map(len, found.draws(2, "cpu"))) == 4
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])


def test_a_point_estimate_makes_one_pass(make_model: Callable[..., Path], tmp_path: Path) -> None:
    found = read_model(make_model(tmp_path / "point", bayesian=False))
    images = torch.randn(1, 1, 8, 8, 8)
    (forward,) = passes(found, 50)
    assert torch.equal(forward(images), found.members[0](images))


def test_the_folder_of_the_arm_stands_for_its_model(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "repeat-0" / "model")
    assert read_description(tmp_path / "repeat-0")[1] == read_description(model)[1]


def test_checksums_are_those_of_sha256sum(model: Path) -> None:
    lines = (model / CHECKSUMS).read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert set(listed) == {p.name for p in model.iterdir()} - {CHECKSUMS}
    for name, digest in listed.items():
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (FORMAT + 1, ("newer version of Graft", "install Graft 0 or later")),
        (FORMAT - 1, ("older format", "again")),
        ("1", ("does not state",)),
    ],
)
def test_another_format_is_refused(folder: Path, version: object, words: tuple[str, ...]) -> None:
    rewrite(folder, lambda raw: raw.update(format=version))
    with pytest.raises(ModelError) as error:
        read_model(folder)
    assert all(word in str(error.value) for word in (DESCRIPTION, *words))


def test_no_model_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        read_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match="holds no model"):
        read_model(tmp_path)


def test_every_damaged_or_missing_file_is_named(folder: Path) -> None:
    for name in (member_name(0), DESCRIPTION):
        path = folder / name
        whole = path.read_bytes()
        position = whole.index(b'"draws": 3') + 9 if name == DESCRIPTION else len(whole) - 5
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ModelError, match=f"{name}: was changed or damaged"):
            read_model(folder)
        path.write_bytes(whole)
    (folder / member_name(0)).unlink()
    with pytest.raises(ModelError, match=f"{member_name(0)}: is missing"):
        read_model(folder)
    (folder / CHECKSUMS).write_text("nonsense\n")
    with pytest.raises(ModelError, match=f"{CHECKSUMS}: is damaged"):
        read_model(folder)
    (folder / CHECKSUMS).unlink()
    with pytest.raises(ModelError, match=f"{CHECKSUMS}: there is no such file"):
        read_model(folder)
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(ModelError, match=f"{DESCRIPTION}: is not valid JSON"):
        read_model(folder)


def test_a_description_that_is_signed_but_wrong_is_refused(folder: Path) -> None:
    rewrite(folder, lambda raw: raw.update(surprise=1))
    with pytest.raises(ModelError, match="surprise"):
        read_model(folder)
    rewrite(folder, lambda raw: raw.pop("surprise"))
    rewrite(folder, lambda raw: raw.update(members=["../elsewhere.safetensors"]))
    with pytest.raises(ModelError, match="does not list"):
        read_model(folder)


def test_post_processing_of_another_structure_is_refused(folder: Path) -> None:
    rewrite(folder, lambda raw: raw["arm"].update(post_processing={"cube": {"keep": "largest"}}))
    assert read_model(folder).description.arm.reading.rules(("cube",))[0].words == "the largest connected component"
    rewrite(folder, lambda raw: raw["arm"].update(post_processing={"ball": {"keep": "largest"}}))
    with pytest.raises(ModelError, match=r"`arm\.post_processing` names 'ball'"):
        read_model(folder)


@pytest.mark.parametrize("number", ["Infinity", "NaN", "-Infinity"])
def test_numbers_of_the_description_are_finite(folder: Path, number: str) -> None:
    text = (folder / DESCRIPTION).read_text()
    assert '"logit_temperature": 1.0' in text
    (folder / DESCRIPTION).write_text(text.replace('"logit_temperature": 1.0', f'"logit_temperature": {number}'))
    sign(folder)
    with pytest.raises(ModelError, match=r"`arm\.logit_temperature`"):
        read_model(folder)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    rewrite(folder, lambda raw: raw["network"].update(channels=[4, 8]))
    with pytest.raises(ModelError, match="do not fit"):
        read_model(folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the first member, read as bytes: mapped ones would go with the file that is written over."""
    return load((folder / member_name(0)).read_bytes())


def respoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the tensors of the first member and gives them a right checksum."""
    state = tensors(folder)
    change(state)
    save_file(state, folder / member_name(0))
    sign(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["posterior.means", "posterior.log_variances", "network."])
def test_numbers_that_are_none_are_refused(folder: Path, value: float, part: str) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        name = next(name for name in state if name.startswith(part))
        state[name].view(-1)[-1] = value

    respoil(folder, spoil)
    with pytest.raises(WorkspaceError, match=rf"{member_name(0)}: `{part}.*NaN"):
        read_model(folder)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.float8_e4m3fn])
def test_other_kinds_of_numbers_are_refused(folder: Path, kind: torch.dtype) -> None:
    respoil(folder, lambda state: state.update({"posterior.means": state["posterior.means"].to(kind)}))
    with pytest.raises(ModelError, match=r"member-00\.safetensors: .*`posterior\.means` holds \w+ numbers, not "):
        read_model(folder)


def test_missing_additional_and_misshapen_tensors_are_refused(folder: Path) -> None:
    whole = tensors(folder)
    changes: list[Callable[[dict[str, torch.Tensor]], object]] = [
        lambda state: state.pop("posterior.log_variances"),
        lambda state: state.update(more=torch.zeros(3)),
        lambda state: state.update({"posterior.means": whole["posterior.means"][:-1].clone()}),
        lambda state: state.update({"posterior.log_weights": torch.zeros(10**6)}),
        lambda state: state.update({"posterior.log_weights": torch.tensor(0.0)}),
    ]
    for change in changes:
        respoil(folder, lambda state, change=change: (state.clear(), state.update(whole), change(state)))  # type: ignore[misc]
        with pytest.raises(ModelError, match=r"member-00\.safetensors: its weights do not fit"):
            read_model(folder)


def test_a_network_that_the_file_cannot_fill_is_never_built(folder: Path) -> None:
    rewrite(folder, lambda raw: raw["network"].update(channels=[100_000, 100_000]))
    with pytest.raises(ModelError, match="fewer than the network"):
        read_model(folder)


@pytest.mark.parametrize("length", [2**63, 10**9, 0])
def test_headers_that_lie_about_their_length_are_refused(folder: Path, length: int) -> None:
    path = folder / member_name(0)
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    sign(folder)
    with pytest.raises(WorkspaceError, match="expected a whole safetensors file"):
        read_model(folder)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_nothing_is_unpickled(folder: Path) -> None:
    (folder / member_name(0)).write_bytes(pickle.dumps(_Bomb()))
    sign(folder)
    with pytest.raises(WorkspaceError, match="safetensors"):
        read_model(folder)


def test_label_values_are_the_datasets_own_where_they_can_be() -> None:
    assert label_values({"core": [4], "rim": [2]}) == {"core": 4, "rim": 2}
    assert label_values({"tumour": [1, 2, 3], "cyst": [5]}) == {"tumour": 1, "cyst": 2}
    assert label_values({"a": [3], "b": [3]}) == {"a": 1, "b": 2}
    assert label_values({"a": [300]}) == {"a": 1}
