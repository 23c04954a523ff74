"""Which structures are segmented: what the command line names, else every label that somebody drew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from data.dataset import Dataset
from data.errors import ConfigError, DataError
from data.label_map import LARGEST_LABEL
from data.names import alike_fault, label_name_fault
from pipeline.planning.fingerprint import Structures


def named_structures(text: str, dataset: Dataset, option: str = "--foreground") -> Structures:
    """Reads `lesion`, `left,right` or `tumour=core+rim,oedema`: classes, each of one label or of several.

    Classes that share a label overlap.

    Args:
        text: labels are names or values of the dataset, or names of its regions.
        dataset: declares them.
        option: for errors.

    Raises:
        ConfigError: a class is empty or named twice.
        DataError: a label that the dataset does not declare.
    """
    classes: dict[str, tuple[int, ...]] = {}
    for entry in text.split(","):
        name, sign, joined = (part.strip() for part in entry.partition("="))
        labels = [label.strip() for label in (joined if sign else name).split("+")]
        if not name or not all(labels) or name in classes:
            raise ConfigError(
                f"{option} {text}: {f'the class {name!r} is named twice' if name in classes else 'a name is missing'}",
                expected="labels such as `left,right`, or classes such as `tumour=core+rim`",
                fix="correct it",
            )
        classes[name] = tuple(dataset.label_values(map(as_label, labels)))
    return _with_sound_names(classes, dataset)


def as_label(text: str) -> int | str:
    """A label by its value or its name."""
    return int(text) if text.isdecimal() and len(text) <= len(str(LARGEST_LABEL)) else text


def drawn_structures(
    dataset: Dataset, drawn: Collection[int], without: Structures | None = None, ignored: Collection[int] = ()
) -> Structures:
    """Returns a class for every label that occurs, or the regions of a dataset that declares some.

    Args:
        dataset: names the labels.
        drawn: values that occur in its label maps.
        without: structures that play another role.
        ignored: values of voxels without annotation, beside those that the dataset declares.

    Raises:
        DataError: no label is left.
    """
    used = {value for values in (without or {}).values() for value in values}
    occurs = set(drawn) - used - {0, *dataset.ignored, *ignored}
    regions = {name: values for name, values in dataset.regions.items() if occurs.intersection(values)}
    if regions and not used:
        return _with_sound_names(regions, dataset)
    values = [value for value in dataset.label_names if value in occurs]
    if not values:
        what = "no labels beside those of the target" if used else "label maps in which nothing is labelled"
        raise DataError(f"{dataset.root}: has {what}", expected="a labelled structure", fix="add the labels")
    return _with_sound_names({dataset.label_names[value]: (value,) for value in values}, dataset)


def _with_sound_names(classes: Mapping[str, tuple[int, ...]], dataset: Dataset) -> Structures:
    """Names a class after its values where its own name would be refused, or several values share it."""
    sound = not alike_fault(classes) and not any(map(label_name_fault, classes))
    if sound:
        return dict(classes)
    return {"label " + "+".join(map(str, values)): tuple(values) for values in classes.values()}


def chosen_channels(wanted: Sequence[str] | None, target: Dataset, source: Dataset) -> tuple[list[str], list[str]]:
    """Returns the channels of target and source, in the order of the network's input.

    Args:
        wanted: names that both have; by default those of the target that the source has too. Where each has one
            channel, their names need not agree.
        target: the target.
        source: the source.

    Raises:
        DataError: a channel is missing, or the two have none in common.
    """
    if wanted:
        return known_channels(wanted, target), known_channels(wanted, source)
    if len(target.channel_names) == len(source.channel_names) == 1:
        return list(target.channel_names), list(source.channel_names)
    shared = [name for name in target.channel_names if name in source.channel_names]
    if not shared:
        raise DataError(
            f"{source.root}: has the channels {', '.join(source.channel_names)}, and {target.root} has "
            f"{', '.join(target.channel_names)}",
            expected="a channel that both have",
            fix="rename the channels that mean the same contrast, or choose another source",
        )
    return shared, shared


def known_channels(wanted: Sequence[str] | None, dataset: Dataset) -> list[str]:
    """Returns the channels that are asked for, by default all of a dataset.

    Raises:
        DataError: one is missing.
    """
    for name in wanted or ():
        if name not in dataset.channel_names:
            raise DataError(
                f"{dataset.root}: there is no channel {name!r}",
                expected=f"one of {', '.join(dataset.channel_names)}",
                fix="correct `--channels`",
            )
    return list(wanted or dataset.channel_names)


def channels_for_pack(wanted: Sequence[str] | None, target: Dataset, of_pack: Sequence[str]) -> list[str]:
    """Returns the target's channels that a source pack knows, in its order.

    Args:
        wanted: channels that are asked for, whether the pack knows them or not.
        target: the target.
        of_pack: channel names of the pack's networks. Where both have one channel, the names need not agree.

    Raises:
        DataError: a channel is missing, or the pack knows none.
    """
    if wanted or len(target.channel_names) == len(of_pack) == 1:
        return known_channels(wanted, target)
    shared = [name for name in of_pack if name in target.channel_names]
    if not shared:
        raise DataError(
            f"{target.root}: has the channels {', '.join(target.channel_names)}, and the source pack learned from "
            f"{', '.join(of_pack)}",
            expected="a channel that both have",
            fix="rename the channels that mean the same contrast, or choose another pack; with `--channels`, others "
            "are used, and the weights that read the image start at random",
        )
    return shared
