"""Damages weights, documents and images at random, and reads them.

    python -m tests.faults.fuzz [--mutations=200] [--seed=0] [--kind=npz]

The mutations are read in another process, which has a time and a memory limit. It must end in an answer, or in
one line that names the file. Everything else (another exception, a crash, a hang, code of the file that ran) is a
fault: the file is kept and named, and the exit status is 1.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import pathlib
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from tests.faults import fuzz_bytes, fuzz_weights
from tests.faults.fuzz_documents import mutated_document
from vit_jax.errors import UserError

SECONDS = 60
"""After which a mutation hangs; reading one takes well under a second on an idle machine."""
GIGABYTES = 3
"""Of address space that a process may ask for beyond what it has when the libraries are loaded."""
LONGEST = 1000
"""Characters that still make one line of a message."""

KINDS = ("safetensors", "npz", "json", "image")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How reading one file ended: `answered`, `refused` in one line, or a fault; and what was said."""

    name: str
    said: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it should not have ended so."""
        return self.name not in ("answered", "refused")


def seeds(folder: pathlib.Path) -> None:
    """Writes a small model in each format, good as it is."""
    from tests.pretrained.examples import small_weights
    from vit_jax.pretrained.save import save_weights

    fields = {"depth": 1, "width": 8, "mlp_dim": 8, "num_classes": 3}
    save_weights(small_weights(gelu="exact", **fields), folder / "timm", "timm")
    save_weights(small_weights(gelu="exact", **fields), folder / "huggingface", "huggingface")
    save_weights(small_weights(**fields), folder / "google.npz", "google")


def mutation(kind: str, number: int, seed: int, originals: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Writes a mutation of a kind, which its number and the seed decide, and returns what to read."""
    rng = random.Random(f"{kind} {number} {seed}")
    folder = out / f"{kind}{number}"
    folder.mkdir(parents=True)
    if kind == "image":
        suffix, whole = fuzz_bytes.encoded(rng)
        (folder / f"x{suffix}").write_bytes(rng.choice(fuzz_bytes.IMAGES)(whole, rng))
        return folder / f"x{suffix}"
    if kind == "npz":
        whole = (originals / "google.npz").read_bytes()
        change = rng.choice(fuzz_weights.NPZ)
        more = {"canary": str(out / "CANARY")} if change is fuzz_weights.lying_array else {}
        (folder / "x.npz").write_bytes(change(whole, rng, **more))
        return folder / "x.npz"
    model = originals / ("timm" if kind == "safetensors" else rng.choice(["timm", "huggingface"]))
    target = "model.safetensors"
    if kind == "json":
        target = rng.choice([file.name for file in sorted(model.glob("*.json"))])
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change = mutated_document if kind == "json" else rng.choice(fuzz_weights.SAFETENSORS)
    (folder / target).write_bytes(change((model / target).read_bytes(), rng))
    return folder


def read(path: pathlib.Path) -> Outcome:
    """Reads a file as a person's command does, and judges how that ends."""
    try:
        if path.parent.name.startswith("image"):
            model = image_reader()
            view = model.view(path)
            good = view.shape == (*model.preprocessing.size, 3) and view.dtype == np.uint8
            return Outcome("answered") if good else Outcome("wrong answer", f"{view.dtype} {view.shape}")
        return judged(path)
    except UserError as error:
        message = str(error)
        if str(path) not in message:
            return Outcome("file not named", message)
        if len(message) - len(str(path)) > LONGEST or not message.isprintable():
            return Outcome("no readable line", repr(message)[:3000])
        return Outcome("refused", message)
    except BaseException:
        return Outcome("traceback", traceback.format_exc())


def judged(path: pathlib.Path) -> Outcome:
    """Loads weights, lets the model look at an image, and judges what it gives."""
    from vit_jax import load_model

    model = load_model(path)
    pixels = np.zeros((30, 40, 3), np.uint8)
    logits = model.logits(model.preprocess(pixels))
    names = model.class_names
    if logits.shape[0] != 1 or logits.ndim != 2 or logits.dtype != np.float32:
        return Outcome("wrong answer", f"logits {logits.dtype} {logits.shape}")
    if names is not None and (len(names) != logits.shape[1] or not all(isinstance(name, str) for name in names)):
        return Outcome("wrong answer", f"{logits.shape[1]} logits for the classes {names!r}"[:300])
    if path.name.startswith("json") and not np.isfinite(logits).all():
        return Outcome("wrong answer", "no numbers, although the weights are good")
    return Outcome("answered")


@functools.cache
def image_reader():
    """Returns the model that looks at images; its short side is resized, which elongated ones take memory for."""
    from tests.pretrained.examples import small_weights
    from vit_jax.data.preprocessing import Preprocessing
    from vit_jax.inference.model import LoadedModel

    size = (224, 224)
    weights = dataclasses.replace(small_weights(size=(8, 8)), preprocessing=Preprocessing((8, 8), 9, "bicubic"))
    model = LoadedModel(weights)
    model.preprocessing = Preprocessing(size, 256, "bicubic")
    return model


def serve(connection, cache: str, reading: Callable[[pathlib.Path], Outcome]) -> None:
    """Reads the files that a connection names, one after the other, under a memory limit."""
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    warnings.simplefilter("ignore")
    image_reader().logits(np.zeros((1, 8, 8, 3), np.float32))
    now = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    while (path := connection.recv()) is not None:
        connection.send(reading(pathlib.Path(path)))


class Reader:
    """A process that reads files, and is started anew when one has ended it or keeps it too long.

    Attributes:
      cache: a folder for what jax compiles.
      reading: what reads a file.
      seconds: after which it hangs.
    """

    def __init__(self, cache: str, reading: Callable[[pathlib.Path], Outcome], seconds: float = SECONDS):
        self.cache, self.reading, self.seconds, self.process = cache, reading, seconds, None

    def start(self) -> None:
        """Starts the process."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.cache, self.reading), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()

    def stop(self) -> None:
        """Ends the process, if one is running."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def __call__(self, path: pathlib.Path) -> Outcome:
        """Returns how reading a file ends."""
        if self.process is None:
            self.start()
        self.connection.send(str(path))
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.connection.poll(self.seconds):
                return self.connection.recv()
            self.stop()
            return Outcome("hang", f"no end after {self.seconds} s")
        self.process.join()
        status = self.process.exitcode
        self.stop()
        return Outcome("crash", f"the process ended with status {status}")


def without_code(outcome: Outcome, folder: pathlib.Path) -> Outcome:
    """Returns the outcome, or that code of the file ran: it leaves a `CANARY` in the folder, or in the working one."""
    ran = any((place / "CANARY").exists() for place in (folder, pathlib.Path()))
    return Outcome("ran code", outcome.said) if ran else outcome


def run(
    kinds: list[str], mutations: int, seed: int, folder: pathlib.Path
) -> Iterator[tuple[str, pathlib.Path, Outcome]]:
    """Yields the kind, the path and the outcome of each mutation; paths of faults are kept."""
    seeds(folder / "good")
    reader = Reader(str(folder / "compiled"), read)
    try:
        for kind in kinds:
            for number in range(mutations):
                path = mutation(kind, number, seed, folder / "good", folder)
                yield kind, path, without_code(reader(path), folder)
    finally:
        reader.stop()


def main() -> int:
    """Fuzzes, prints a table of outcomes and the faults, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="one of them only")
    parser.add_argument("--lines", action="store_true", help="print what was said of each file")
    flags = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vit_jax_fuzz_"))
    counts, faults = collections.defaultdict(collections.Counter), []
    for kind, path, outcome in run(flags.kind or list(KINDS), flags.mutations, flags.seed, folder):
        counts[kind][outcome.name] += 1
        if outcome.is_fault:
            faults.append(json.dumps({"file": str(path), "outcome": outcome.name}) + "\n" + outcome.said)
            print(faults[-1], flush=True)
        elif flags.lines:
            print(f"{path.name if kind == 'json' else path}: {outcome.name} {outcome.said}", flush=True)
    names = sorted({name for counter in counts.values() for name in counter})
    print(f"{'':12}" + "".join(f"{name:>18}" for name in names))
    for kind, counter in counts.items():
        print(f"{kind:12}" + "".join(f"{counter[name]:18}" for name in names))
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
