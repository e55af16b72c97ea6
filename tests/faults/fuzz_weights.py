"""Mutations of `.safetensors` and `.npz` files that lie about their structure."""

import io
import json
import pickle
import random
import struct
import warnings
import zipfile

import numpy as np

from tests.faults.fuzz_bytes import ANY, EXTREMES
from tests.faults.fuzz_documents import mutated_document

DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "I32",
    "U8",
    "I8",
    "BOOL",
    "C64",
    "F4",
    "",
    "f32",
    3,
)
SHAPES = (
    [],
    [0],
    [-1],
    [1, -8],
    [2**31],
    [2**63],
    [2**64 - 1, 2],
    [2**62, 4],
    [0, 2**60],
    [3.0],
    ["8"],
    [None],
    "8",
    None,
    [1] * 70,
    8,
)


def split(whole: bytes) -> tuple[dict, bytes]:
    """Returns the header and the data of a `.safetensors` file."""
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def joined(header: object, data: bytes) -> bytes:
    """Returns a `.safetensors` file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lying_length(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file whose header states another length of itself."""
    length = int.from_bytes(whole[:8], "little")
    lie = rng.choice([*EXTREMES, length - 1, length + 1, length + 8, len(whole), 10**8]) % (1 << 64)
    return struct.pack("<Q", lie) + whole[8:]


def lying_tensor(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file that states another type, shape or place of one tensor."""
    header, data = split(whole)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, kind = header[name], rng.randrange(7)
    if kind == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = rng.choice(SHAPES)
    elif kind == 2:
        edges = [*EXTREMES, entry["data_offsets"][0], entry["data_offsets"][1] + 4, len(data)]
        entry["data_offsets"] = rng.choice(
            [[rng.choice(edges), rng.choice(edges)], entry["data_offsets"][::-1], [], "0"]
        )
    elif kind == 3:  # the same bytes as numbers of half the size, twice as many
        entry["dtype"], entry["shape"] = rng.choice(["F16", "BF16", "I16"]), [2, *entry["shape"]]
    elif kind == 4:
        entry["shape"] = rng.choice([entry["shape"][::-1], [*entry["shape"], 1], [int(np.prod(entry["shape"]))]])
    elif kind == 5:
        header[rng.choice([f"{name}\x1b[31m\n", "x" * 5000, "", "../x", name.replace("0", "7")])] = header.pop(name)
    else:
        del entry[rng.choice(list(entry))]
    return joined(header, data)


def lying_numbers(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file of numbers that are extreme or none."""
    header, data = split(whole)
    numbers = np.frombuffer(data, np.float32).copy()
    numbers[rng.randrange(len(numbers)) :: rng.choice([1, 7, 1000])] = rng.choice(
        [np.nan, np.inf, -np.inf, 3e38, 1e-45]
    )
    return joined(header, numbers.tobytes())


def mutated_header(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file whose header is mutated as a JSON document."""
    header, data = split(whole)
    return joined(mutated_document(json.dumps(header).encode(), rng), data)


SAFETENSORS = [*ANY, lying_length, lying_tensor, lying_tensor, lying_tensor, lying_numbers, mutated_header]


class Code:
    """Unpickling it makes a file of this name."""

    def __init__(self, place: str):
        self.place = place

    def __reduce__(self):
        return (open, (self.place, "w"))


NPY_HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 4), }",
    "{'descr': '<f4', 'fortran_order': 3, 'shape': (8,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1099511627776), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': ('8',), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (8.0,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 70 + "), }",
    "{'descr': '<f4', 'shape': (8,), }",
    "{'descr': '<U99999999', 'fortran_order': False, 'shape': (8,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (8,), }",
    "{'descr': '|V4', 'fortran_order': False, 'shape': (8,), }",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }",
    "{'descr': '>f4', 'fortran_order': False, 'shape': (8,), }",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': [('a', '<f4')] * 3, 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (8,), 'x': __import__('os').system('touch CANARY'), }",
    "__import__('os').system('touch CANARY')",
    "[" * 500,
    "(" * 9000,
    "-" * 9000 + "1",
    "{'descr': '" + "x" * 9000 + "', 'fortran_order': False, 'shape': (8,), }",
    "{'a': 1, " * 900,
    "\x00" * 100,
    "",
)


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    """Returns a `.npy` file."""
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data


def members(whole: bytes) -> dict[str, bytes]:
    """Returns the files in a zip file."""
    with zipfile.ZipFile(io.BytesIO(whole)) as stored:
        return {name: stored.read(name) for name in stored.namelist()}


def zipped(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Returns a zip file, in which names may stand twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as stored, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice, which is the point
        for name, content in files:
            stored.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def lying_array(whole: bytes, rng: random.Random, canary: str = "CANARY") -> bytes:
    """Returns an `.npz` one of whose arrays has a header that lies, is a pickle, or is none."""
    files = members(whole)
    name = rng.choice(list(files))
    content, kind = files[name], rng.randrange(6)
    data = content[10 + int.from_bytes(content[8:10], "little") :]
    if kind < 3:
        header = rng.choice(NPY_HEADERS).replace("CANARY", canary)
        content = npy(header, data, rng.choice([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\4\0", b"\xff\0"]))
    elif kind == 3:
        content = rng.choice([pickle.dumps(Code(canary)), b"", b"\x93NUMPY", b"\x93NUMPY\1\0\xff\xff", content[:-1]])
    elif kind == 4:
        place = io.BytesIO()
        np.save(place, np.array([Code(canary)], dtype=object), allow_pickle=True)
        content = place.getvalue()
    else:
        content = rng.choice(ANY)(content, rng)
    return zipped([*((other, files[other]) for other in files if other != name), (name, content)])


def lying_zip(whole: bytes, rng: random.Random) -> bytes:
    """Returns an `.npz` whose directory lies: sizes, checksums, compression, flags, places, names."""
    changed = bytearray(whole)
    directory, local = whole.rindex(b"PK\1\2"), whole.index(b"PK\3\4")
    end = whole.rindex(b"PK\5\6")
    start, fields = rng.choice([(directory, 46), (local, 30), (end, 22)])
    place = start + rng.randrange(4, fields - 1)
    number = (rng.choice([*EXTREMES, 8, 9, 12, 14, 99]) % (1 << 16)).to_bytes(2, "little")
    changed[place : place + 2] = number
    return bytes(changed)


def rebuilt_zip(whole: bytes, rng: random.Random) -> bytes:
    """Returns an `.npz` that a strange program wrote: compressed, with names twice, missing or of other folders."""
    files, kind = list(members(whole).items()), rng.randrange(7)
    name, content = rng.choice(files)
    if kind == 0:
        files.append((name, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(4))))
    elif kind == 1:
        files = [file for file in files if file[0] != name]
    elif kind == 2:
        files.append(
            (rng.choice(["../../CANARY.npy", "/CANARY.npy", "x\x1b[31m.npy", "y" * 3000 + ".npy", ""]), content)
        )
    elif kind == 3:  # 40 MB of zeros in 40 kB
        files.append(
            ("bomb.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000,), }", bytes(40_000_000)))
        )
        return zipped(files, zipfile.ZIP_DEFLATED)
    elif kind == 4:
        files.append(("notes.txt", b"not an array"))
    elif kind == 5:
        array = np.load(io.BytesIO(content))
        place = io.BytesIO()
        other = rng.choice(["<f8", "<f2", "<i4", "|b1", ">f4", "<c8", "<U3"])
        np.save(place, array[..., None] if rng.random() < 0.3 else array.astype(other))
        files = [(other_name, place.getvalue() if other_name == name else data) for other_name, data in files]
    return zipped(files, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))


NPZ = [*ANY, lying_array, lying_array, lying_array, lying_zip, lying_zip, rebuilt_zip, rebuilt_zip]
