"""Omniglot: archives found, downloaded, refused, kept; splits; the real thing where GRADGRAD_DATA is set."""

import io
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradgrad.datamodules import OmniglotTasks, omniglot_archive
from gradgrad.datamodules.omniglot_archive import MEMBER, Characters, read_omniglot, small
from gradgrad.datamodules.omniglot_splits import split_classes
from gradgrad.errors import UsageError

FAKE = {"images_background": 23, "images_evaluation": 8}
ALPHABETS = {"images_background": ("Greek", "Latin"), "images_evaluation": ("Ge_ez",)}
PARTS = ("train", "val", "test")


def drawing(number):
    """A drawing of one bit, paper is 1, with an ink square whose place tells its number."""
    pixels = np.ones((105, 105), dtype=bool)
    row, column = divmod(number % 49, 7)
    pixels[15 * row : 15 * row + 15, 15 * column : 15 * column + 15] = False
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def write_archive(folder, name, characters, images=20, broken=None):
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        archive.writestr(f"{name}/", b"")
        archive.writestr("__MACOSX/._images_background", b"a stranger")
        alphabets = ALPHABETS[name]
        for i in range(characters):
            for k in range(images):
                member = f"{name}/{alphabets[i % len(alphabets)]}/character{i:02}/{i:04}_{k + 1:02}.png"
                archive.writestr(member, b"no image" if (i, k) == broken else drawing(i + k))


@pytest.fixture(scope="session")
def fakes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot")
    for name, characters in FAKE.items():
        write_archive(folder, name, characters)
    return folder


@pytest.fixture(autouse=True)
def small_omniglot(monkeypatch, request):
    if "real" not in request.fixturenames:
        monkeypatch.delenv("GRADGRAD_DATA", raising=False)
        monkeypatch.setattr(omniglot_archive, "ARCHIVES", FAKE)


def omniglot(root, cache, **options):
    return OmniglotTasks(root=str(root), cache=str(cache), **{"split": "lake", "ways": 2} | options)


def copied(fakes, tmp_path):
    for path in fakes.glob("*.zip"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_characters_are_sorted_and_inverted(fakes, tmp_path):
    characters = read_omniglot(str(fakes), str(tmp_path))
    assert characters.images.shape == (31, 20, 28, 28)
    assert characters.names == sorted(characters.names)
    assert characters.background.sum() == 23
    for place, name in enumerate(characters.names):
        number = int(name[-2:])
        assert (characters.images[place, 5] == small(drawing(number + 5))).all()
    ink = small(drawing(24))  # the square in the middle: 15 of 105 pixels wide, 4 of 28
    assert (ink[13:15, 13:15] > 250).all()  # Lanczos rings by a few levels
    assert (ink[:9] == 0).all()


def test_the_array_is_kept_and_used(fakes, tmp_path, monkeypatch):
    first = read_omniglot(str(fakes), str(tmp_path))
    monkeypatch.setattr(omniglot_archive, "_read", None)  # would fail
    again = read_omniglot(str(fakes), str(tmp_path))
    assert (first.images == again.images).all()
    assert first.names == again.names
    assert (first.background == again.background).all()


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "text", "other archive"])
def test_a_broken_or_stale_array_is_made_again(fakes, tmp_path, harm):
    home = tmp_path / "cache"
    expected = read_omniglot(str(fakes), str(home))
    kept = home / "omniglot_28.npz"
    content = kept.read_bytes()
    if harm == "flip":
        kept.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif harm == "other archive":
        np.savez(kept, **{**np.load(kept), "archives": np.array(["a", "b"]), "images": expected.images[::-1]})
    else:
        kept.write_bytes({"truncate": content[: len(content) // 2], "empty": b"", "text": b"hello"}[harm])
    again = read_omniglot(str(fakes), str(home))
    assert (again.images == expected.images).all()
    assert len(kept.read_bytes()) == len(content)
    assert sorted(path.name for path in home.iterdir() if path.suffix != ".lock") == ["omniglot_28.npz"]  # no leftovers


def test_two_at_once_read_the_archives_once(fakes, tmp_path, monkeypatch):
    read, calls = omniglot_archive._read, []

    def slowly(archives):
        calls.append(1)
        time.sleep(0.3)
        return read(archives)

    monkeypatch.setattr(omniglot_archive, "_read", slowly)
    threads = [threading.Thread(target=read_omniglot, args=(str(fakes), str(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (tmp_path / "omniglot_28.npz").is_file()


def test_archives_are_found_through_the_environment(fakes, tmp_path, monkeypatch):
    (tmp_path / "omniglot").symlink_to(fakes)
    monkeypatch.setenv("GRADGRAD_DATA", str(tmp_path))
    assert len(read_omniglot(None, str(tmp_path / "cache")).names) == 31


def test_a_download_is_checked_and_kept(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot_archive, "URL", f"file://{fakes}/")
    with pytest.raises(UsageError, match=r"images_background.zip has the MD5 \w+, it is not the published archive") as error:
        read_omniglot(None, str(tmp_path))
    assert "expected: 68d2efa1b9178cc56df9314c21c6e718" in str(error.value)
    assert not list(tmp_path.glob("*.zip"))
    md5 = {name: omniglot_archive._md5((fakes / f"{name}.zip").read_bytes()) for name in FAKE}
    monkeypatch.setattr(omniglot_archive, "MD5", md5)
    assert len(read_omniglot(None, str(tmp_path)).names) == 31
    monkeypatch.setattr(omniglot_archive, "URL", "file:///nowhere/")
    assert len(read_omniglot(None, str(tmp_path)).names) == 31


def test_no_archive_and_no_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot_archive, "URL", f"file://{tmp_path}/nowhere/")
    with pytest.raises(UsageError, match=r"images_background.zip could not be downloaded: .*") as error:
        read_omniglot(None, str(tmp_path))
    assert "expected: a network, or the archives in data.init_args.root or in $GRADGRAD_DATA/omniglot" in str(error.value)
    assert len(str(error.value).splitlines()) == 3


def test_a_root_without_archives_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"images_background.zip does not exist") as error:
        omniglot(tmp_path / "none", tmp_path).prepare_data()
    assert "or unset root and GRADGRAD_DATA to have them downloaded" in str(error.value)


@pytest.mark.parametrize(
    ("characters", "images", "sentence"),
    [
        (7, 20, r"images_evaluation.zip has 7 characters: it is partial or another archive"),
        (8, 19, r"has 8 characters, Ge_ez/character00 with 19 images: it is partial"),
        (0, 20, r"has 0 characters: it is partial"),
    ],
)
def test_a_partial_archive_is_refused(fakes, tmp_path, characters, images, sentence):
    root = copied(fakes, tmp_path)
    write_archive(root, "images_evaluation", characters, images)
    with pytest.raises(UsageError, match=sentence) as error:
        omniglot(root, tmp_path).prepare_data()
    assert "expected: 8 characters with 20 images each" in str(error.value)


def test_a_broken_archive_is_refused(fakes, tmp_path):
    root = copied(fakes, tmp_path)
    write_archive(root, "images_evaluation", 8, broken=(3, 4))
    with pytest.raises(UsageError, match=r"images_evaluation.zip is broken: cannot identify image file"):
        omniglot(root, tmp_path).prepare_data()
    (root / "images_evaluation.zip").write_bytes((fakes / "images_evaluation.zip").read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"images_evaluation.zip is broken: File is not a zip file"):
        omniglot(root, tmp_path).prepare_data()


def test_lake_takes_every_tenth_character_to_validate(fakes, tmp_path):
    characters = read_omniglot(str(fakes), str(tmp_path))
    parts = split_classes("lake", characters, rotations=False, root=None)
    names = {part: [characters.names[row] for row, _ in parts[part]] for part in PARTS}
    background = sorted(name for name in characters.names if not name.startswith("Ge_ez"))
    assert names["val"] == [background[9], background[19]]
    assert len(names["train"]) == 21
    assert names["test"] == [f"Ge_ez/character{i:02}" for i in range(8)]


def test_rotations_are_classes_of_their_own(fakes, tmp_path):
    upright, turned = (omniglot(fakes, tmp_path, rotations=rotations) for rotations in (False, True))
    assert (len(upright._of("test").rows), len(turned._of("test").rows)) == (8, 32)
    batch = turned.tasks("test", 0, 5)
    assert [tuple(part.shape) for part in batch] == [(5, 2, 1, 28, 28), (5, 2), (5, 2, 1, 28, 28), (5, 2)]
    assert batch.support_x.max() <= 1
    assert turned.task_shape == ((1, 28, 28), 2, True)
    assert turned.meta_batch_size == 32


def test_vinyals_reads_the_rotations_from_its_files(fakes, tmp_path):
    root = copied(fakes, tmp_path)
    (root / "splits" / "vinyals").mkdir(parents=True)
    for part, lines in {"train": "Greek/character00/rot000\nGreek/character00/rot270\n", "val": "", "test": ""}.items():
        (root / "splits" / "vinyals" / f"{part}.txt").write_text(lines)
    characters = read_omniglot(str(root), str(tmp_path))
    row = characters.names.index("Greek/character00")
    assert split_classes("vinyals", characters, rotations=True, root=root)["train"] == [(row, 0), (row, 3)]
    assert split_classes("vinyals", characters, rotations=False, root=root)["train"] == [(row, 0)]
    (root / "splits" / "vinyals" / "val.txt").write_text("\nGreek/character00/rot045\n")
    with pytest.raises(UsageError, match=r"val.txt, line 2: 'Greek/character00/rot045' is no class of Omniglot"):
        omniglot(root, tmp_path, split="vinyals").prepare_data()


def test_missing_split_files_are_told(fakes, tmp_path):
    with pytest.raises(UsageError, match="split 'vinyals' needs the files splits/vinyals/") as error:
        omniglot(fakes, tmp_path, split="vinyals").prepare_data()
    assert "write:    data.init_args.split: finn, which needs no file" in str(error.value)


def test_an_unknown_split_gets_the_nearest(fakes, tmp_path):
    with pytest.raises(UsageError, match="OmniglotTasks got split 'vinyal'") as error:
        omniglot(fakes, tmp_path, split="vinyal").prepare_data()
    assert str(error.value).splitlines()[1:] == [
        "expected: one of finn, vinyals, lake",
        "write:    data.init_args.split: vinyals",
    ]


def test_other_names_are_refused_by_the_published_list(fakes, tmp_path):
    with pytest.raises(UsageError, match=r"the archives have no character Alphabet_of_the_Magi/character01, nor 1593 others"):
        omniglot(fakes, tmp_path, split="finn").prepare_data()


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """The archives themselves; reading them takes about 12 s."""
    if not os.environ.get("GRADGRAD_DATA"):
        pytest.skip("GRADGRAD_DATA is not set")
    cache = tmp_path_factory.mktemp("cache")
    return Path(os.environ["GRADGRAD_DATA"]) / "omniglot", cache, read_omniglot(cache=str(cache))


def test_the_real_omniglot(real):
    root, cache, characters = real
    assert characters.images.shape == (1623, 20, 28, 28)
    assert characters.background.sum() == 964
    with zipfile.ZipFile(root / "images_evaluation.zip") as archive:
        member = next(member for member in archive.namelist() if member.endswith("_07.png"))
        row = characters.names.index(MEMBER.fullmatch(member)["character"])
        assert (characters.images[row, 6] == small(archive.read(member))).all()
    counts = {"finn": (4400, 400, 1692), "vinyals": (4112, 688, 1692), "lake": (3472, 384, 2636)}
    for split, sizes in counts.items():
        parts = split_classes(split, characters, rotations=True, root=root)
        assert tuple(len(parts[part]) for part in PARTS) == sizes
        rows = [{row for row, _ in parts[part]} for part in PARTS]
        assert len(set.union(*rows)) == sum(map(len, rows)) == 1623
    data = OmniglotTasks(ways=20, shots=5, queries=5, cache=str(cache))
    data.prepare_data()
    batch = data.tasks("test", 0, 10)
    assert batch.support_x.shape == (10, 100, 1, 28, 28)
    assert 0.05 < batch.support_x.mean() < 0.12  # ink is sparse, so paper is 0
    assert {part.part for part in data.provenance()} == {"training", "validation", "test"}


def test_the_list_is_the_one_of_finn_s_sizes():
    lines = (Path(omniglot_archive.__file__).parent / "splits" / "omniglot_finn.txt").read_text().splitlines()
    names = [line.split()[1] for line in lines if not line.startswith("#")]
    characters = Characters(np.zeros((1623, 20, 28, 28), np.uint8), names, np.zeros(1623, bool))
    parts = split_classes("finn", characters, rotations=False, root=None)
    assert [len(parts[part]) for part in PARTS] == [1100, 100, 423]
    assert sorted(row for part in PARTS for row, _ in parts[part]) == list(range(1623))
    assert len(set(names)) == 1623
    assert torch.tensor([turn for part in PARTS for _, turn in parts[part]]).max() == 0
