"""Omniglot's two archives: found or downloaded, read once, kept as one array."""

import hashlib
import io
import os
import re
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from gradgrad.errors import UsageError

ARCHIVES = {"images_background": 964, "images_evaluation": 659}  # characters in each
MD5 = {"images_background": "68d2efa1b9178cc56df9314c21c6e718", "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811"}
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
DRAWERS = 20  # people who drew each character
SIDE = 28  # pixels, as in Vinyals et al. 2016 and all that followed
MEMBER = re.compile(r"(?P<archive>images_\w+)/(?P<character>[^/]+/character\d+)/[^/]+\.png")


class Characters(NamedTuple):
    """C characters, sorted by name.

    Attributes:
        images: ink is 255, paper 0, uint8, shape ``(C, 20, 28, 28)``.
        names: as in ``Gurmukhi/character42``.
        background: whether a character comes from the background archive, shape ``(C,)``.
    """

    images: NDArray[np.uint8]
    names: list[str]
    background: NDArray[np.bool_]


def omniglot_root(root: str | None) -> Path | None:
    """Find the folder of the archives.

    Args:
        root: what the user said; None means ``$GRADGRAD_DATA/omniglot``, if that exists.

    Returns:
        The folder, or None: then the archives are downloaded.
    """
    home = os.environ.get("GRADGRAD_DATA")
    folder = Path(root) if root else Path(home or "") / "omniglot"
    return folder if root or (home and folder.is_dir()) else None


def read_omniglot(root: str | None = None, cache: str | None = None) -> Characters:
    """Read both archives, or what an earlier call kept of them.

    Args:
        root: folder of ``images_background.zip`` and ``images_evaluation.zip``; None means ``$GRADGRAD_DATA/omniglot``, or a
            download into ``cache``.
        cache: folder to keep the array in, 25 MB; None means ``gradgrad`` beside torch's own cache, ``~/.cache/gradgrad``.

    Returns:
        All characters.

    Raises:
        UsageError: an archive is missing, broken or not Omniglot.
    """
    home = Path(cache) if cache else Path(torch.hub.get_dir()).parent.parent / "gradgrad"
    home.mkdir(parents=True, exist_ok=True)
    kept = home / f"omniglot_{SIDE}.npz"
    with FileLock(home / "omniglot.lock"):  # the second of two processes waits, and finds the array
        folder = omniglot_root(root)
        archives = {name: _archive(name, folder, home) for name in ARCHIVES}
        digests = [_md5(path.read_bytes()) for path in archives.values()]
        if (characters := _kept(kept, digests)) is None:
            rank_zero_info(
                f"Reading the {DRAWERS * sum(ARCHIVES.values()):,} images of Omniglot: once, about 15 s; kept in {kept}"
            )
            characters = _read(archives)
            _keep(kept, digests, characters)
    return characters


def _archive(name: str, folder: Path | None, home: Path) -> Path:
    path = (folder or home) / f"{name}.zip"
    if path.is_file():
        return path
    if folder is not None:
        raise UsageError(
            f"{path} does not exist.\n"
            f"expected: {' and '.join(f'{archive}.zip' for archive in ARCHIVES)} of brendenlake/omniglot in {folder}\n"
            "write:    data.init_args.root: <their folder>, or unset root and GRADGRAD_DATA to have them downloaded"
        )
    try:
        with urllib.request.urlopen(f"{URL}{name}.zip", timeout=60) as answer:
            content = answer.read()
    except (OSError, HTTPException) as error:
        raise UsageError(
            f"{name}.zip could not be downloaded: {error}\n"
            f"expected: a network, or the archives in data.init_args.root or in $GRADGRAD_DATA/omniglot\n"
            f"write:    data.init_args.root: <folder of {name}.zip>"
        ) from error
    if _md5(content) != MD5[name]:
        raise UsageError(
            f"{URL}{name}.zip has the MD5 {_md5(content)}, it is not the published archive or came incomplete.\n"
            f"expected: {MD5[name]}\n"
            "write:    the same again, or data.init_args.root: <folder of the archives>"
        )
    _replace(path, content)
    return path


def _read(archives: dict[str, Path]) -> Characters:
    images: dict[str, list[NDArray[np.uint8]]] = {}
    background = set()
    for name, path in archives.items():
        found: dict[str, list[NDArray[np.uint8]]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in sorted(archive.namelist()):
                    if (match := MEMBER.fullmatch(member)) and match["archive"] == name:
                        found.setdefault(match["character"], []).append(small(archive.read(member)))
        except (zipfile.BadZipFile, zlib.error, OSError, SyntaxError, EOFError) as error:  # Pillow's are OSError, SyntaxError
            raise UsageError(f"{path} is broken: {error}\nwrite: the archive of brendenlake/omniglot in its place") from error
        odd = [character for character, drawn in found.items() if len(drawn) != DRAWERS]
        if len(found) != ARCHIVES[name] or odd:
            example = f", {odd[0]} with {len(found[odd[0]])} images" if odd else ""
            raise UsageError(
                f"{path} has {len(found)} characters{example}: it is partial or another archive.\n"
                f"expected: {ARCHIVES[name]} characters with {DRAWERS} images each, {name}/<alphabet>/character<nn>/<image>.png"
            )
        images.update(found)
        background |= set(found) if name == "images_background" else set()
    names = sorted(images)
    return Characters(np.array([images[name] for name in names]), names, np.array([name in background for name in names]))


def small(png: bytes) -> NDArray[np.uint8]:
    """Shrink a drawing.

    Lanczos on grey levels. A drawing has 1 bit, for which Pillow silently takes the nearest pixel instead: the code of Finn et
    al. asks for Lanczos and, with one bit, gets that.

    Args:
        png: paper is light, ink dark.

    Returns:
        Ink is 255, paper 0, shape ``(28, 28)``.
    """
    from PIL import Image  # not needed where the array is kept

    with Image.open(io.BytesIO(png)) as image:
        return 255 - np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _kept(path: Path, digests: list[str]) -> Characters | None:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # numpy leaves a torn file open
            images, names, background = file["images"], file["names"], file["background"]
            same = file["archives"].tolist() == digests and str(file["checksum"]) == _checksum(images, names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):  # whatever a torn file gives
        return None
    return Characters(images, names.tolist(), background) if same else None


def _keep(path: Path, digests: list[str], characters: Characters) -> None:
    names = np.array(characters.names)
    checksum = _checksum(characters.images, names)
    content = io.BytesIO()
    np.savez(
        content,
        images=characters.images,
        names=names,
        background=characters.background,
        archives=np.array(digests),
        checksum=np.array(checksum),
    )
    _replace(path, content.getvalue())


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        shutil.copyfileobj(io.BytesIO(content), file)
    Path(file.name).replace(path)


def _checksum(images: NDArray[np.uint8], names: NDArray[np.str_]) -> str:
    return hashlib.sha256(images.tobytes() + names.tobytes()).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
