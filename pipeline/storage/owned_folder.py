"""Folders that Graft fills: it only ever replaces or removes files that it wrote itself.

A manifest in the folder lists the files that Graft wrote, with their sizes and SHA-256. Other files belong to somebody
else and are neither replaced nor removed. New content is moved in file by file, so that a folder that is a link, a
mount point or shared stays one. Meanwhile the manifest lists the old and the new files: if the command is killed, the
folder counts as unfinished, and the next command can still tell Graft's files from others.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from data.errors import WorkspaceError
from pipeline.storage.atomic import followed, is_temporary, remove_temporaries_of, temporary_room, write_json
from pipeline.storage.digest import file_digest

logger = logging.getLogger(__name__)

_REPLACING = "replacing"


class Changed(StrEnum):
    """What to do with a file that Graft wrote and somebody has changed since."""

    REFUSE = "refuse"
    """Stop the command: users edit these files, such as masks."""
    KEEP = "keep"
    """Keep the file: nothing depends on it."""
    REPLACE = "replace"
    """Make the file again: nobody edits these files, so it can only be damaged."""


def contents(folder: Path, manifest: str) -> dict[str, Any]:
    """Returns the entries of a manifest for the other files in its folder: `files` (sizes) and `sha256`."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    paths.pop(manifest, None)
    return {
        "files": {name: path.stat().st_size for name, path in paths.items()},
        "sha256": {name: file_digest(path) for name, path in paths.items()},
    }


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Returns the manifest of a folder, even an unfinished one; `None` if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _listed(found)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return dict(found)


def listed_files(folder: Path, manifest: str) -> set[str]:
    """Names of the files that Graft wrote into a folder."""
    found = read_manifest(folder / manifest)
    return set(_listed(found)) if found is not None else set()


def _listed(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Name → the digests that Graft's file of that name may have."""
    if _REPLACING in manifest:
        return {str(name): set(digests) for name, digests in manifest[_REPLACING].items()}
    known = manifest.get("sha256", {})
    return {str(name): {known[name]} if name in known else set() for name in manifest["files"]}


def set_aside(folder: Path, manifest: str) -> None:
    """Marks a folder as unfinished, so that its files are made again."""
    if found := read_manifest(folder / manifest):
        write_json(folder / manifest, _unfinished(_listed(found)))


def changed_files(folder: Path, manifest: str) -> list[str]:
    """Returns the files that changed after the manifest was written; only those touched since are read."""
    written = (folder / manifest).stat().st_mtime_ns
    listed = _known(folder, manifest)
    touched = [name for name in listed if (folder / name).exists() and (folder / name).stat().st_mtime_ns > written]
    return list(_objections(folder, listed, touched))


def _unfinished(listed: Mapping[str, set[str]]) -> dict[str, Any]:
    return {_REPLACING: {name: sorted(digests) for name, digests in listed.items()}}


def require_ours(folder: Path, manifest: str, changed: Changed = Changed.REFUSE) -> None:
    """Refuses, before any work is done, a folder that Graft may not fill.

    Args:
        folder: the folder; it need not exist.
        manifest: name of its manifest.
        changed: what to do with Graft's own files that were changed.

    Raises:
        WorkspaceError: the path is a file, the folder holds files but no manifest, or a file of Graft was changed and
            this is refused.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or (not os.path.lexists(folder / manifest) and not is_empty(folder)):
        found = f"holds files but no {manifest}, so Graft did not write them" if folder.is_dir() else "is a file"
        raise WorkspaceError(
            f"{folder}: {found}",
            expected="a new or empty folder, or one that Graft filled",
            fix="move or rename it, and run the same command again",
        )
    if changed is Changed.REFUSE:
        require_own_unchanged(folder, manifest)


def require_own_unchanged(folder: Path, manifest: str) -> None:
    """Refuses, before any work is done, a folder in which somebody changed a file that Graft wrote.

    Raises:
        WorkspaceError: one was changed.
    """
    listed = _known(folder, manifest)
    _refuse(folder, _objections(folder, listed, listed))


def require_unchanged(folder: Path, manifest: str, names: Iterable[str]) -> None:
    """Refuses certain files that are not as Graft wrote them, in a folder where others may have changed.

    Raises:
        WorkspaceError: one was not written by Graft, or was changed since.
    """
    _refuse(folder, _objections(folder, _known(folder, manifest), names))


def require_writable(folder: Path) -> None:
    """Makes a folder unless it exists, and refuses one that cannot be written.

    Raises:
        WorkspaceError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission to write"
    except FileExistsError:
        reason = "a file is there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise WorkspaceError(
            f"{folder}: cannot hold the results ({reason})",
            expected="a folder that can be written",
            fix="name another with --output",
        )


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what killed commands left."""
    return all(is_temporary(path) for path in folder.iterdir())


def _known(folder: Path, manifest: str, assumed: Iterable[str] | None = None) -> dict[str, set[str]]:
    """The files that the folder's manifest lists; none if there is no manifest.

    Args:
        folder: filled by Graft.
        manifest: name of its manifest.
        assumed: files that a damaged manifest is assumed to list; it still shows that Graft filled the folder.

    Raises:
        WorkspaceError: the manifest is damaged and nothing is assumed.
    """
    found = read_manifest(folder / manifest)
    if found is not None or not os.path.lexists(folder / manifest):
        return _listed(found) if found is not None else {}
    if assumed is not None:
        return {name: set() for name in assumed}
    raise WorkspaceError(
        f"{folder / manifest}: is damaged, so Graft's own files in this folder cannot be told from others",
        expected="the list of files as Graft wrote it",
        fix="move or rename the folder, and run the same command again",
    )


def _objections(folder: Path, listed: Mapping[str, set[str]], names: Iterable[str]) -> dict[str, str]:
    """Name → why this file may not be replaced, for existing files that are not as Graft wrote them."""
    found = {}
    for name in sorted(names):
        path = folder / name
        if not os.path.lexists(path):
            continue
        if name not in listed:
            found[name] = "was not written by Graft"
        elif not path.is_file() or file_digest(path) not in listed[name]:
            found[name] = "has been changed since Graft wrote it"
    return found


def _refuse(folder: Path, objections: Mapping[str, str]) -> None:
    for name, objection in objections.items():
        raise WorkspaceError(
            f"{folder / name}: {objection}",
            expected="only files that Graft wrote and nobody has changed, because it replaces them",
            fix="move or rename it, and run the same command again",
        )


def settle(new: Path, folder: Path, manifest: str, changed: Changed) -> None:
    """Moves the files of a temporary folder to their place.

    Args:
        new: holds the files and a manifest that lists them.
        folder: their place; other people's files in it stay.
        manifest: name of the manifest.
        changed: what to do with Graft's own files that were changed.

    Raises:
        WorkspaceError: somebody else's file is in the way; nothing was changed.
    """
    folder = followed(folder)
    if not os.path.lexists(folder):
        os.rename(new, folder)
        return
    fresh = dict(json.loads((new / manifest).read_text(encoding="utf-8"))["sha256"])
    if changed is Changed.REPLACE:
        listed = _known(folder, manifest, assumed=fresh)
        objections = _objections(folder, listed, set(fresh) - set(listed))
    else:
        listed = _known(folder, manifest)
        objections = _objections(folder, listed, {*fresh, *listed})
    if changed is Changed.KEEP:
        for name, objection in objections.items():
            logger.warning("%s %s, and is kept", folder / name, objection)
    else:
        _refuse(folder, objections)
    both = dict(listed)
    for name, own in fresh.items():
        both[name] = both.get(name, set()) | {own}
    write_json(folder / manifest, _unfinished(both))
    _replace(new, folder, fresh, set(listed) - set(fresh), objections)
    shutil.move(new / manifest, folder / manifest)


def _replace(new: Path, folder: Path, fresh: Iterable[str], stale: Iterable[str], kept: Collection[str]) -> None:
    for name in sorted(fresh):
        if name not in kept:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(new / name, folder / name)
    for name in sorted(stale):
        if name not in kept:
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                # Stops at the first folder that is not empty, at the latest at the one with the manifest.
                os.removedirs((folder / name).parent)


@contextmanager
def owned_folder(folder: Path, manifest: str) -> Iterator[Path]:
    """Yields a temporary folder; on success its files go to `folder` and are listed in its manifest.

    Raises:
        WorkspaceError: somebody else's file is in the way; nothing was changed.
    """
    require_ours(folder, manifest)
    with owned_files(folder, manifest) as temporary:
        yield temporary


@contextmanager
def owned_files(folder: Path, manifest: str, of_before: Iterable[str] = ()) -> Iterator[Path]:
    """Yields a temporary folder; on success its files go to `folder`, which may hold other files too.

    Args:
        folder: where they go.
        manifest: lists them there.
        of_before: names of files that count as Graft's where a version without a manifest wrote the folder.

    Raises:
        WorkspaceError: a file of Graft was changed, or somebody else's file is in the way; nothing was changed.
    """
    remove_temporaries_of(folder)
    require_own_unchanged(folder, manifest)
    with temporary_room(folder) as temporary:
        yield temporary
        write_json(temporary / manifest, contents(temporary, manifest))
        if folder.is_dir() and not os.path.lexists(folder / manifest):
            found = {name: folder / name for name in of_before if (folder / name).is_file()}
            write_json(folder / manifest, _unfinished({name: {file_digest(path)} for name, path in found.items()}))
        settle(temporary, folder, manifest, Changed.REFUSE)
