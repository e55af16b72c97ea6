"""A folder of explanations: pictures, an interactive page an image, and a list of them all."""

import html
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax.errors import UserError, explained_writes, nearest
from vit_jax.explanation.classes import class_number
from vit_jax.explanation.drawings import DRAWINGS, Drawing, Sight
from vit_jax.explanation.methods import Options
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.on_pictures import require_weights
from vit_jax.inference.model import LoadedModel

ALL = "all"
DPI = 110
TOP = 5
"""Classes listed of each image."""

INDEX = "index.html"

COMPARED = "compare.html"
"""The page of the first two images."""

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { font-weight: 600; line-height: 1.2; } h2 { margin-top: 3rem; }
ul.classes { padding: 0; list-style: none; } ul.classes li { display: inline-block; margin-right: 1.5rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption, .note { font-size: .875rem; opacity: .75; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
"""


class Gallery:
    """Writes explanations into a folder.

    Attributes:
      folder: where they go.
      written: the files so far.
      notes: what could not be drawn, and why.
    """

    def __init__(
        self,
        model: LoadedModel,
        folder: pathlib.Path,
        names: Sequence[str],
        options: Options,
        chosen: str | None = None,
        page: bool | None = None,
    ):
        """Prepares a folder.

        Args:
          names: what to draw, of `DRAWINGS`, or `ALL`: whatever the model has.
          chosen: the class to explain, or None: of each image the one that the model predicts.
          page: whether interactive pages are written; None: where the model's attention is made for it.

        Raises:
          UserError: there is no such drawing or class, none of them takes an option, or the folder cannot be made.
        """
        require_weights(model)
        self.model, self.folder, self.options, self.page = model, folder, options, page
        self.strict = ALL not in names
        self.drawings = chosen_drawings(names, options)
        if chosen is not None and page is False and not any(drawing.of_class for drawing in self.drawings.values()):
            raise UserError(f"--class means nothing to {', '.join(names)}, which explain no class")
        self.number = None if chosen is None else class_number(model, chosen)
        self.written: list[pathlib.Path] = []
        self.notes: list[str] = []
        self.sections: list[str] = []
        self.with_page: list[str] = []
        self.taken = {
            pathlib.Path(INDEX).stem,
            pathlib.Path(COMPARED).stem,
            *(name for name, drawing in DRAWINGS.items() if drawing.of_model),
        }
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out={folder} is a file, not a folder")
        with explained_writes(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, file: str) -> str:
        """Draws all that is wanted of an image file, and returns a line that says what the model sees in it.

        Raises:
          UserError: the file cannot be read, or, unless all drawings are wanted, one is not to be had.
        """
        image = self.model.view(file)
        number = None if self.number is None else np.array([self.number])
        seen = Observation(self.model, self.model.preprocessing.normalised(image[None]), number)
        said = self.said(seen)
        sight, stem = Sight(image, seen, self.options, *said[:2]), self.stem_of(file)
        pictures = self.draw(sight, lambda drawing: not drawing.of_model, f"{stem}_")
        if not self.sections:
            of_model = self.draw(sight, lambda drawing: drawing.of_model, "")
            self.sections.append(section("The model", [], of_model) if of_model else "")
        link = self.write_page(f"{stem}.html", [file])
        self.with_page += [file] if link else []
        self.sections.append(section(pathlib.Path(file).name, said[1:], pictures, link))
        return f"{file}: {sight.predicted or 'no classes'}, {len(pictures)} pictures" + (f", {link}" if link else "")

    def said(self, seen: Observation) -> list[str]:
        """Returns the explained class with its probability, then the most probable ones; nothing without classes."""
        if not self.model.num_classes:
            return []
        probabilities = seen.probabilities[0]
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        return [f"{self.class_name(i)} ({100 * probabilities[i]:.1f} %)" for i in (int(seen.classes[0]), *best)]

    def class_name(self, number: int) -> str:
        """Returns a class's name, of several the first; its number where it has none."""
        names = self.model.class_names
        return names[number].partition(",")[0] if names else f"class {number}"

    def draw(self, sight: Sight, wanted: Callable[[Drawing], bool], prefix: str) -> list[tuple[str, str]]:
        """Writes drawings and returns their file names and captions.

        Raises:
          UserError: one is not to be had, and not all are wanted.
        """
        done = []
        for name, drawing in self.drawings.items():
            if not wanted(drawing):
                continue
            try:
                figure = drawing.draw(sight)
            except UserError as error:
                if self.strict:
                    raise
                self.note(f"not drawn: {name}: {error}")
                continue
            path = self.folder / f"{prefix}{name}.png"
            with explained_writes(str(path)):
                figure.savefig(path, dpi=DPI)
            self.written.append(path)
            done.append((path.name, drawing.caption))
        return done

    def write_page(self, name: str, files: Sequence[str]) -> str | None:
        """Writes an interactive page of images and returns its file name; None where there is none.

        Raises:
          UserError: it was asked for, and the model is not made for it.
        """
        if self.page is False:
            return None
        from vit_jax.explanation.page import write_page

        path = self.folder / name
        classes = [] if self.number is None else [self.number]
        try:
            write_page(path, self.model, files, [pathlib.Path(file).name for file in files], classes)
        except UserError as error:
            if self.page:
                raise
            self.note(f"no interactive page: {error}")
            return None
        self.written.append(path)
        return name

    def note(self, line: str) -> None:
        """Keeps what is to be said, once."""
        if line not in self.notes:
            self.notes.append(line)

    def stem_of(self, file: str) -> str:
        """Returns what the names of an image's files begin with: that of the file, and a number where it is taken."""
        stem = re.sub(r"[^\w.-]+", "_", pathlib.Path(file).stem).lstrip(".-") or "image"
        names = [stem, *(f"{stem}_{i}" for i in range(2, len(self.taken) + 3))]
        free = next(name for name in names if name not in self.taken)
        self.taken.add(free)
        return free

    def finish(self) -> pathlib.Path:
        """Writes the page that compares the first two images, and the list of all pictures, and returns its path."""
        first = self.with_page[:2]
        link = self.write_page(COMPARED, first) if len(first) == 2 else None
        compared = f'<p><a href="{link}">interactive page of the first two images</a></p>' if link else ""
        title = html.escape(f"What {self.model.source} looks at")
        notes = "".join(f'<p class="note">{html.escape(line)}</p>' for line in self.notes)
        path = self.folder / INDEX
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        document = f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head>'
        sections = "".join([*self.sections[1:], *self.sections[:1]])  # the images first, then the model
        document += f"<body><h1>{title}</h1>{notes}{compared}{sections}</body></html>\n"
        with explained_writes(str(path)):
            path.write_text(document, encoding="utf-8")
        self.written.append(path)
        return path


def chosen_drawings(names: Sequence[str], options: Options) -> dict[str, Drawing]:
    """Returns the drawings of some names, or all.

    Raises:
      UserError: there is no such drawing, or none of them takes an option.
    """
    for name in names:
        if name not in DRAWINGS and name != ALL:
            known = ", ".join([*DRAWINGS, ALL])
            raise UserError(f"there is no method {name!r}{nearest(name, [*DRAWINGS, ALL])}; known are {known}")
    wanted = {name: DRAWINGS[name] for name in (DRAWINGS if ALL in names else names)}
    for option in sorted(options.given()):
        if not any(option in drawing.takes for drawing in wanted.values()):
            users = ", ".join(name for name, drawing in DRAWINGS.items() if option in drawing.takes)
            raise UserError(f"--{option} means nothing to {', '.join(names)}; it is an option of {users}")
    return wanted


def section(title: str, said: Sequence[str], pictures: Sequence[tuple[str, str]], page: str | None = None) -> str:
    """Returns a part of the list: a heading, the classes, the way to the interactive page, the pictures."""
    parts = [f"<section><h2>{html.escape(title)}</h2>"]
    if said:
        parts.append(f'<ul class="classes">{"".join(f"<li>{html.escape(line)}</li>" for line in said)}</ul>')
    if page:
        parts.append(f'<p><a href="{html.escape(page)}">interactive page</a></p>')
    parts.append('<div class="pictures">')
    for name, caption in pictures:
        text = html.escape(caption)
        source = html.escape(name)
        parts.append(
            f'<figure><a href="{source}"><img src="{source}" alt="{text}" loading="lazy"></a>'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return "".join([*parts, "</div></section>"])
