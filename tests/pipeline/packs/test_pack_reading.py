"""A pack that a stranger hands in: every fault is one sentence with exit code 2, and nothing is written anywhere."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from models.filter_bank import FilterBank
from models.filters import filter_layers
from models.networks.factory import NetworkRecord, meta_network
from models.networks.monai_networks import UNetOptions
from models.priors.gaussian import Gaussian, GaussianOptions
from pipeline.cli import main
from pipeline.packs.pack_archive import PackError, SourcePack, open_pack, read_entry
from pipeline.packs.pack_record import density_entry, snapshot_entry
from pipeline.packs.pack_weights import density, require_whole

_SNAPSHOT = snapshot_entry(0, 1)


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that refuses a pack."""
    capsys.readouterr()
    assert main(["pack", "--show", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("graft: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.slow
def test_the_card_of_a_sound_pack_is_shown(tiny_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "--show", str(tiny_pack)]) == 0
    card = capsys.readouterr().out
    for words in ("# Tiny", "CC-BY 4.0", "Doe 2026", "left", "T1", "2 networks", "gaussian_full", "2 × 2 × 2 mm"):
        assert words in card
    assert "fewer than five" in card


def test_the_same_content_packed_otherwise_is_read(rewrite: Any, tiny_pack: Path) -> None:
    again = rewrite(compression=zipfile.ZIP_DEFLATED)
    assert open_pack(again).record == open_pack(tiny_pack).record
    require_whole(open_pack(again))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.99])
def test_a_truncated_pack(share: float, tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tiny_pack.read_bytes()
    path = tmp_path / "short.pack"
    path.write_bytes(content[: int(share * len(content))])
    assert "is damaged, or is not a source pack" in shown(path, capsys)


def test_every_damaged_byte_of_the_weights_is_noticed(
    tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(tiny_pack.read_bytes())
    with zipfile.ZipFile(tiny_pack) as archive:
        places = [info.header_offset + 200 for info in archive.infolist()]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "damaged.pack").write_bytes(damaged)
        assert "damaged" in shown(tmp_path / "damaged.pack", capsys)


def test_a_file_with_the_right_check_value_and_another_content(rewrite: Any, tiny_pack: Path) -> None:
    record = open_pack(tiny_pack).record
    path = rewrite(lambda record, files: files.update({_SNAPSHOT: files[_SNAPSHOT][:-1] + b"x"}))
    with pytest.raises(PackError, match="SHA-256"):
        read_entry(path, _SNAPSHOT, record.files[_SNAPSHOT])


@pytest.mark.parametrize("kind", ["nothing", "folder", "text", "other zip"])
def test_what_is_no_pack(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not a zip archive")
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("photo.jpg", "x")
    words = {"nothing": "no such file", "folder": "is a folder", "text": "not a source pack", "other zip": "pack.json"}
    assert words[kind] in shown(path, capsys)


@pytest.mark.parametrize(
    ("value", "words"),
    [(3, "newer version of Graft (format 3)"), (10**9, "newer version of Graft")],
)
def test_a_newer_format(value: int, words: str, rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def change(record: dict[str, Any], files: dict[str, bytes]) -> None:
        # What a newer version writes is not understood, and need not be.
        record |= {"format": value, "graft_version": "9.1"}
        record["network"] = {"name": "of_the_future"}

    message = shown(rewrite(change), capsys)
    assert words in message
    assert "install Graft 9.1 or later" in message


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "a/../../outside", "a\\..\\outside", "networks/", "a//b", ".hidden", "a\0b"]
)
def test_a_name_outside_the_pack(name: str, rewrite: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rewrite(extra=lambda archive: archive.writestr(zipfile.ZipInfo("placeholder" + "_" * 10), b"x"))
    # The library cleans names when it writes; a stranger's program does not.
    content = path.read_bytes().replace(b"placeholder" + b"_" * 10, name.encode().ljust(21, b"_"))
    if name.endswith("/"):
        path = rewrite(extra=lambda archive: archive.writestr(zipfile.ZipInfo(name), b""))
    else:
        path.write_bytes(content)
    message = shown(path, capsys)
    assert "part of which" in message
    assert "do not use it" in message
    # Folders of other tests lie beside this one's, and may hold whatever they like.
    assert not [*tmp_path.rglob("outside*"), *tmp_path.parent.glob("outside*")]


def test_a_link(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def link(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    assert "is a link" in shown(rewrite(extra=link), capsys)


def test_files_that_are_not_listed_missing_or_there_twice(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not listed" in shown(rewrite(extra=lambda archive: archive.writestr("more.txt", "x")), capsys)

    def forget(record: dict[str, Any], files: dict[str, bytes]) -> None:
        del files[_SNAPSHOT]

    assert "is not listed" in shown(rewrite(forget), capsys)
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewrite(extra=lambda archive: archive.writestr(_SNAPSHOT, b"x"))
    assert "twice" in shown(path, capsys)
    assert "twice" in shown(rewrite(extra=lambda archive: archive.writestr("Readme.MD", b"x")), capsys)


def test_a_bomb(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def grow(record: dict[str, Any], files: dict[str, bytes]) -> None:
        files["LICENSE"] = b"0" * (64 * 2**20)

    assert "would unpack to" in shown(rewrite(grow, zipfile.ZIP_DEFLATED), capsys)


def test_an_entry_that_lies_about_its_size(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = rewrite()
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("README.md")
    # Unpacked size in the central directory, which follows the entries.
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(b"README.md"))
    changed = content[: directory + 24] + (info.file_size + 7).to_bytes(4, "little") + content[directory + 28 :]
    path.write_bytes(changed)
    assert "damaged" in shown(path, capsys)


def test_kernels_of_another_size(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def layer(record: dict[str, Any], files: dict[str, bytes]) -> None:
        state = load(files[_SNAPSHOT])
        name = record["groups"]["encoder_1"]["layers"][0]
        state[name] = torch.zeros(*state[name].shape[:2], 5, 5, 5)
        files[_SNAPSHOT] = save(state)

    assert "kernels of 5×5×5" in shown(rewrite(layer), capsys)

    def density(record: dict[str, Any], files: dict[str, bytes]) -> None:
        rows = torch.zeros(200, dtype=torch.int64)
        bank = FilterBank(torch.randn(200, 125), rows, rows, rows, rows, rows)
        prior = Gaussian(GaussianOptions(), 125)
        prior.fit(bank)
        files[density_entry("encoder_1", "gaussian_full")] = save(
            {key: own.contiguous() for key, own in prior.state_dict().items()}
        )

    assert "kernels of 125 voxels" in shown(rewrite(density), capsys)


def test_densities_of_transposed_kernels_that_were_not_mirrored(rewrite: Any) -> None:
    options = UNetOptions(channels=(4, 6))
    layers = filter_layers(meta_network(NetworkRecord(options, 1, 2)))
    assert {layer.transposed for layer in layers} == {True, False}

    def pack(version: int, transposed: bool, **network: Any) -> tuple[SourcePack, str]:
        def change(record: dict[str, Any], files: dict[str, bytes]) -> None:
            record |= {"format": version, "network": network or options.model_dump(mode="json")}
            for group in record["groups"].values():
                group["layers"] = [layer.parameter for layer in layers if layer.transposed is transposed]

        found = open_pack(rewrite(change))
        return found, next(iter(found.record.groups))

    for usable in (pack(2, True), pack(1, False)):
        assert density(*usable, "gaussian_full")
    imported = {"name": "imported", "factory": "stranger:build", "options": {}, "source": ""}
    for earlier in (pack(1, True), pack(1, False, **imported)):
        with pytest.raises(PackError, match=r"kernels were not mirrored \(format 1\).*run its study again"):
            density(*earlier, "gaussian_full")


def test_weights_that_are_not_finite_or_of_another_network(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(record: dict[str, Any], files: dict[str, bytes]) -> None:
        state = load(files[_SNAPSHOT])
        state[next(iter(state))].flatten()[0] = float("nan")
        files[_SNAPSHOT] = save(state)

    def wider(record: dict[str, Any], files: dict[str, bytes]) -> None:
        record["network"]["channels"] = [4, 8]

    def huge(record: dict[str, Any], files: dict[str, bytes]) -> None:
        record["network"]["channels"] = [4, 10**9]

    assert "NaN" in shown(rewrite(spoil), capsys)
    assert "not those of the network" in shown(rewrite(wider), capsys)
    assert "sizes above" in shown(rewrite(huge), capsys)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("groups", "encoder_1", "scores", "densities", "vae", "mean"), float("nan")),
        (("groups", "encoder_1", "layers"), []),
        (("channels",), ["T1\nx"]),
        (("source_training", "networks"), 10**12),
        (("snapshots",), [0]),
        (("seed",), "x"),
        (("preprocessing", "unknown"), 1),
    ],
)
def test_a_record_that_cannot_be(
    keys: tuple[str, ...], value: Any, rewrite: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any], files: dict[str, bytes]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    assert "pack.json" in shown(rewrite(change), capsys)


def test_words_of_the_giver_stay_words(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def change(record: dict[str, Any], files: dict[str, bytes]) -> None:
        record["title"] = "\x1b[31mred [link](http://x) <script>"

    assert main(["pack", "--show", str(rewrite(change))]) == 0
    card = capsys.readouterr().out
    assert "\x1b" not in card
    assert "<script>" not in card
    assert r"\[link\]" in card


def test_a_network_that_is_code_runs_nothing_when_it_is_shown(
    rewrite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(**options): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def change(record: dict[str, Any], files: dict[str, bytes]) -> None:
        record["network"] = {"name": "imported", "factory": "stranger:build", "options": {}, "source": ""}

    assert main(["pack", "--show", str(rewrite(change))]) == 0
    assert "code outside Graft" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_json_is_told_from_other_text(rewrite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = rewrite()
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, b"[" * 100_000 if name == "pack.json" else content)
    assert "pack.json" in shown(path, capsys)
    assert json.loads(files["pack.json"])["format"] == 2
