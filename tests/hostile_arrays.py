"""Archives of arrays that are not what they say, for every reader of such files."""

import io
import json
import struct
import zipfile

import numpy as np


def archive(*members, compression=zipfile.ZIP_STORED):
    """Return a zip archive of pairs of a name and bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return content.getvalue()


def header(text, version=(1, 0)):
    """Return the beginning of an array whose header is a text."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text.encode()


def array(shape, data=b"", kind="<f8", version=(1, 0)):
    described = {"descr": kind, "fortran_order": False, "shape": shape}
    return header(repr(described), version) + data


def whole(value):
    content = io.BytesIO()
    np.save(content, value)
    return content.getvalue()


def pickled():
    content = io.BytesIO()
    np.save(content, np.array([{}], object), allow_pickle=True)
    return content.getvalue()


def resized(member, size):
    """Return an archive of one packed member that says it unpacks to another size."""
    content = archive(("header.npy", member), compression=zipfile.ZIP_DEFLATED)
    return content.replace(struct.pack("<I", len(member)), struct.pack("<I", size))


BOMB = resized(array((2**28,), bytes(10**6)), 2**31)
"""What says of itself that it unpacks to 2 GiB."""

MEMBERS = {
    "without NumPy's header": b"arbitrary bytes",
    "empty": b"",
    "pickled": pickled(),
    "a huge header": header("(" * 60_000),
    "a deep header": header("(" * 5000 + ")" * 5000),
    "a header of four gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "another version": array((1,), bytes(8), version=(3, 0)),
    "fewer bytes than it says": array((2**20,), bytes(8)),
    "more bytes than it says": array((1,), bytes(16)),
    "exabytes": array((2**40, 2**20)),
    "10**400 numbers": array((10**400,)),
    "a negative size": array((-1,), bytes(8)),
    "two negative sizes": array((-1, -1), bytes(8)),
    "numbers of no size": array((2**40,), kind="|V0"),
    "texts of no size": array((2**40,), kind="<U0"),
    "an unknown kind": array((1,), bytes(8), kind="what"),
}
ARCHIVES = {name: archive(("header.npy", content)) for name, content in MEMBERS.items()}
ARCHIVES |= {
    "no archive": b"text",
    "nothing": b"",
    "one name twice": archive(*((f"heade{x}.npy", whole(np.zeros(1))) for x in "rx")).replace(
        b"headex", b"header"
    ),
    "packed by bzip2": archive(("header.npy", whole(np.zeros(3))), compression=zipfile.ZIP_BZIP2),
    "a lie about its size": resized(whole(np.zeros(1000)), 200),
    "one lone array": whole(np.zeros(3)),
}

DEEP = "[" * 100_000
JSON = {
    "deep": DEEP,
    "deeper than needed": "[" * 100 + "]" * 100,
    "huge": f"1{'0' * 400}",
    "beyond floats": "1e999",
    "Infinity": "Infinity",
    "NaN": "NaN",
    "half a pair": '"\\ud800"',
    "null": "null",
    "true": "true",
    "a text": '"5"',
    "a list": "[1]",
    "an object": "{}",
}
"""Values of JSON in the place of others."""


def replaced(value, key, text):
    """Return JSON in which the value of a key is a text as it stands."""
    mark = "\0mark"
    return json.dumps({**value, key: mark}).replace(json.dumps(mark), text)
