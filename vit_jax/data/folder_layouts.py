"""How image files are laid out, and so which split and class each belongs to. Their contents are not looked at.

Recognised are
  - `PATH/<class>/**/image`, which is one split, `train`;
  - `PATH/train/<class>/**/image` with `val` (or `validation`, `valid`) or `test` beside it;
  - ImageNet as it is published, whose `val` is flat and labelled by a table, in Kaggle's tree too;
  - a CSV of files and labels, or `train.csv` with `val.csv` or `test.csv`.
"""

import dataclasses
import os
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from vit_jax.data.folder_tables import (
    EXTENSIONS,
    META,
    SOLUTION,
    TRUTH,
    development_kit,
    kaggle_solution,
    labelled_files,
    shown,
)
from vit_jax.data.imagenet import readable
from vit_jax.errors import UserError, nearest

VALIDATION = ("val", "validation", "valid")
SPLITS = ("train", *VALIDATION, "test")
SPLIT_LIKE = {*SPLITS, "training", "testing"}
NOBODYS = {"__MACOSX", "lost+found", "@eaDir"}
"""Folders that archives, file systems and network drives leave behind."""

LAYOUTS = (
    "either a folder for each class (PATH/cat/1.jpg), or train/ and val/ with such folders in each"
    " (PATH/train/cat/1.jpg), or a CSV of files and labels (data.name='folder:PATH/labels.csv')"
)

KAGGLE_TREE = ("ILSVRC", "Data", "CLS-LOC")
PROBED_ROWS = 100
"""If none of a table's first files exists, they are looked for in the wrong place."""


@dataclasses.dataclass
class Rows:
    """Files relative to a listing's root, and the class of each."""

    files: list[str] = dataclasses.field(default_factory=list)
    classes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Listing:
    """All labelled images under a path.

    Attributes:
      path: what was listed; `root` is the folder in it that `splits` are relative to.
      class_names: in the order of the labels; words instead of ImageNet's wnids.
      splits: by name, the files and their int32 labels `[rows]`, ordered by name or by line.
      shuffled: whether the rows are to be shuffled, because they have to be divided by slicing.
      refused: why a split that seems to be there is not usable.
      stamps: when the folders and tables that were read last changed.
    """

    path: str
    root: str
    class_names: list[str]
    splits: dict[str, tuple[list[str], Int[np.ndarray, "rows"]]]
    shuffled: bool
    refused: dict[str, str]
    stamps: dict[str, int]


def list_images(path: str) -> Listing:
    """Returns what is under an absolute path, and prints how many files were passed over.

    Raises:
      UserError: there is no such path, it holds no images or only one class, or its layout is not known.
    """
    if not os.path.exists(path):
        raise UserError(f"folder:{path} does not exist{_nearest_sibling(path)}")
    if not os.path.isdir(path):
        if not path.lower().endswith(".csv"):
            raise UserError(f"folder:{path} is a file, but no folder and no .csv")
        return _from_tables(path, os.path.dirname(path), {None: os.path.basename(path)})
    levels = [os.path.join(path, *KAGGLE_TREE[start:]) for start in (3, 2, 1, 0)]
    root = next((level for level in levels if os.path.isdir(os.path.join(level, "train"))), path)
    tables = {name: f"{name}.csv" for name in SPLITS if os.path.isfile(os.path.join(root, f"{name}.csv"))}
    if "train" in tables and len(tables) > 1:
        return _from_tables(path, root, tables)
    scan = Scan(path, root)
    names = _split_folders(scan)
    listing = _from_splits(scan, names) if names else _from_classes(scan)
    scan.report()
    return listing


def stamp(path: str) -> int:
    """Returns when a file or folder last changed, in nanoseconds; 0 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class Scan:
    """Walks the folders of a root, and remembers what it passed over and when each folder changed."""

    def __init__(self, path: str, root: str):
        self.path, self.root = path, root
        self.others: list[str] = []
        self.strays: list[str] = []
        self.stamps = {path: stamp(path)}

    def entries(self, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Returns the sorted names of the folders, images and other files in a folder; hidden ones are left out.

        Raises:
          UserError: the folder cannot be listed.
        """
        place = os.path.join(self.root, folder)
        self.stamps[place] = stamp(place)
        folders, images, others = [], [], []
        try:
            with os.scandir(place) as found:
                for entry in found:
                    if entry.name.startswith(".") or entry.name in NOBODYS:
                        continue
                    kind = folders if _is_folder(entry) else images if _is_image(entry) else others
                    kind.append(entry.name)
        except OSError as error:
            raise UserError(f"folder:{self.path}: cannot list {shown(place)}: {error.strerror}") from error
        return sorted(folders), sorted(images), sorted(others)

    def images(self, folder: str) -> list[str]:
        """Returns the images in a folder and all below it, sorted, relative to the root.

        A link to a folder that was seen before, or that holds this one, is not followed: it may lead round in a loop.
        """
        base, seen, found, waiting = self.real(folder), set(), [], [folder]
        while waiting:
            place = waiting.pop()
            real = self.real(place)
            if real in seen or (real != base and _holds(real, base)):
                continue
            seen.add(real)
            folders, images, others = self.entries(place)
            waiting += [os.path.join(place, name) for name in folders]
            found += [os.path.join(place, name) for name in images]
            self.others += [os.path.join(place, name) for name in others]
        return sorted(found)

    def by_class(self, folder: str) -> dict[str, list[str]]:
        """Returns the images of each class folder, in the order of the classes' names."""
        folders, images, others = self.entries(folder)
        self.strays += [os.path.join(folder, name) for name in images]
        self.others += [os.path.join(folder, name) for name in others]
        places = {name: os.path.join(folder, name) for name in folders}
        here = self.real(folder)
        return {name: self.images(place) for name, place in places.items() if not _holds(self.real(place), here)}

    def real(self, folder: str) -> str:
        """Returns a folder's path without links."""
        return os.path.realpath(os.path.join(self.root, folder))

    def report(self) -> None:
        """Prints what was passed over: one line for files of other kinds, one for images outside class folders."""
        for names, one, many in (
            (self.others, "file that is no image", "files that are no images"),
            (self.strays, "image outside the class folders", "images outside the class folders"),
        ):
            if names:
                some = ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")
                print(f"folder:{shown(self.path)}: ignored {len(names)} {one if len(names) == 1 else many}: {some}")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _is_image(entry: os.DirEntry) -> bool:
    """Links that lead nowhere count: reading them fails, and is counted, by name. Pipes and devices do not."""
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _holds(outer: str, inner: str) -> bool:
    return os.path.join(inner, "").startswith(os.path.join(outer, ""))


def _nearest_sibling(path: str) -> str:
    """Returns nearest()'s answer for the first part of the path that is not there."""
    parent, name = os.path.split(path)
    while not os.path.isdir(parent):
        parent, name = os.path.split(parent)
    try:
        return nearest(name, os.listdir(parent))
    except OSError:
        return ""


def _split_folders(scan: Scan) -> list[str]:
    """Returns the folders that are splits, or none where the folders are classes.

    Raises:
      UserError: the folders are splits by their names, but without `train`, or named otherwise than `SPLITS`; or
        `train` may be a split or a class.
    """
    folders, _, _ = scan.entries("")
    names = [name for name in SPLITS if name in folders]
    if "train" in names and len(names) > 1:
        return names
    if folders and folders != ["train"] and {name.lower() for name in folders} <= SPLIT_LIKE:
        raise UserError(
            f"folder:{scan.path} holds {', '.join(folders)}: call the folders of splits train, val and test, or name "
            f"the one that holds the class folders: data.name='folder:{os.path.join(scan.root, folders[0])}'"
        )
    if "train" not in names or scan.entries("train")[1]:
        return []  # a train/ that holds images itself is a class, beside bus/ and car/
    beside = [folder for folder in folders if folder != "train" and scan.entries(folder)[1]]
    if beside:
        raise UserError(
            f"folder:{scan.path} holds train/ with folders in it, and images in {beside[0]}/: if train/ is the split "
            f"to train on, write data.name='folder:{os.path.join(scan.root, 'train')}'; if it is a class, rename it"
        )
    return names


def _from_classes(scan: Scan) -> Listing:
    """Lists `PATH/<class>/**/image`."""
    by_class = scan.by_class("")
    if not any(by_class.values()):
        tables = [name for name in scan.others if name.lower().endswith(".csv")]
        table = f"; to read {tables[0]}: data.name='folder:{os.path.join(scan.path, tables[0])}'" if tables else ""
        if scan.strays:
            count = f"{len(scan.strays)} images, such as {shown(scan.strays[0])}, but no folders of classes"
            raise UserError(f"folder:{scan.path} holds {count}; lay it out as {LAYOUTS}{table}")
        known = " ".join(sorted(EXTENSIONS))
        raise UserError(f"folder:{scan.path} holds no images ({known}) in folders of classes; wanted is {LAYOUTS}")
    _check_classes(scan.path, by_class, [])
    name = next(iter(by_class))
    inside = f"; did you mean data.name='folder:{os.path.join(scan.root, name)}'?" if scan.entries(name)[0] else ""
    return _numbered(scan, list(by_class), {"train": _rows(by_class)}, shuffled=True, hint=inside)


def _from_splits(scan: Scan, names: list[str]) -> Listing:
    """Lists `PATH/<split>/<class>/**/image`, and ImageNet's flat `val`."""
    trees = {name: scan.by_class(name) for name in names if scan.entries(name)[0]}
    if not any(trees.get("train", {}).values()):
        raise UserError(f"folder:{scan.path}: train/ holds no images in folders of classes; wanted is {LAYOUTS}")
    splits, refused = {name: _rows(tree) for name, tree in trees.items()}, {}
    for name in (name for name in names if name not in trees):
        _, images, _ = scan.entries(name)
        if images and name in VALIDATION:
            try:
                splits[name] = Rows([os.path.join(name, image) for image in images], _validation_classes(scan, images))
            except UserError as error:
                refused[name] = str(error)
        else:
            kind = (
                f"images without labels ({len(images)}); evaluate on another split" if images else "no images; add some"
            )
            refused[name] = f"{name}/ holds {kind}"
    elsewhere = {label for rows in splits.values() for label in rows.classes}
    _check_classes(scan.path, trees["train"], elsewhere)
    return _numbered(scan, list(trees["train"]), splits, shuffled=names == ["train"], refused=refused)


def _rows(by_class: dict[str, list[str]]) -> Rows:
    files = [file for members in by_class.values() for file in members]
    return Rows(files, [name for name, members in by_class.items() for _ in members])


def _check_classes(path: str, by_class: dict[str, list[str]], elsewhere: Iterable[str]) -> None:
    for name, files in by_class.items():
        if not files and name not in elsewhere:
            raise UserError(f"folder:{path}: class {name!r} has no images; add some or remove its folder")


def _numbered(
    scan: Scan,
    classes: list[str],
    splits: dict[str, Rows],
    *,
    shuffled: bool,
    refused: dict[str, str] | None = None,
    hint: str = "",
) -> Listing:
    """Returns the listing with numbers for classes. Splits with a class that is none of `classes` are refused.

    Raises:
      UserError: there is only one class; the message ends in `hint`.
    """
    if len(classes) < 2:
        raise UserError(f"folder:{scan.path} has only one class, {classes[0]!r}; at least two are needed{hint}")
    numbers = {name: number for number, name in enumerate(classes)}
    refused, labelled = dict(refused or {}), {}
    for split, rows in splits.items():
        if strangers := sorted(set(rows.classes) - set(classes)):
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            close = nearest(strangers[0], classes)
            refused[split] = (
                f"{split} holds class {strangers[0]!r}{more}, which train lacks{close}; rename it, or add it to train"
            )
        elif not rows.files:
            refused[split] = f"{split}/ holds no images; add some"
        else:
            labelled[split] = rows.files, np.array([numbers[name] for name in rows.classes], np.int32)
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in classes]
    return Listing(scan.path, scan.root, readable(names), labelled, shuffled, refused, scan.stamps)


def _validation_classes(scan: Scan, images: list[str]) -> list[str]:
    """Returns the WordNet ids of ImageNet's validation images, from Kaggle's table or the development kit.

    Raises:
      UserError: there is neither, or it does not fit the images.
    """
    places = [scan.real("")]
    while len(places) < 1 + len(KAGGLE_TREE):
        places.append(os.path.dirname(places[-1]))
    for place in places:
        scan.stamps[place] = stamp(place)
    for files, read in (((SOLUTION,), kaggle_solution), ((TRUTH, META), development_kit)):
        for place in places:
            paths = [os.path.join(place, file) for file in files]
            if all(map(os.path.isfile, paths)):
                scan.stamps.update((path, stamp(path)) for path in paths)
                return read(images, *paths)
    raise UserError(
        f"val/ holds {len(images)} images without folders of classes, and nothing labels them: looked in "
        f"{scan.root} and above for {SOLUTION} (from Kaggle's imagenet-object-localization-challenge), or {TRUTH} and "
        f"{META} (unpacked from ILSVRC2012_devkit_t12.tar.gz of image-net.org); val/<class>/ folders work too"
    )


def _from_tables(path: str, root: str, tables: dict[str | None, str]) -> Listing:
    """Lists the files that CSVs name; the key is the split of all of a table's rows, or None."""
    scan, splits, divided = Scan(path, root), {}, True
    for split, table in tables.items():
        place = os.path.join(root, table)
        scan.stamps[place] = stamp(place)
        files = []
        for file, label, own in labelled_files(place):
            divided = divided and bool(split or own)
            rows = splits.setdefault(split or own or "train", Rows())
            rows.files.append(file)
            rows.classes.append(label)
            files.append(file)
        if not any(os.path.lexists(os.path.join(root, file)) for file in files[:PROBED_ROWS]):
            raise UserError(
                f"{place}: there is no file {files[0]!r} in {root}; files are named with their extension, relative to "
                "the folder of the CSV"
            )
    telling = [splits["train"]] if "train" in splits else splits.values()
    names = set().union(*(rows.classes for rows in telling))
    integers = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    classes = sorted(names, key=lambda name: (int(name), name) if integers else name)
    return _numbered(scan, classes, splits, shuffled=not divided)
