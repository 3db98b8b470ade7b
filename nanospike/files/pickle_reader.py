"""PyTorch's weight files without PyTorch and without unpickling: a machine of a few opcodes that can only build data.

A pickle is a program. This machine knows the opcodes that torch.save writes of a dict of tensors and no other, and the
globals of GLOBALS, which it never looks up: they are names, with functions of our own behind them. What is not on these
lists is refused by name. Layouts: a zip of data.pkl and one stored file per storage, or (before PyTorch 1.6) five
pickles and then the storages, each behind its length.
"""

import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config.errors import InputError
from .tensors import all_finite

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the older layout
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
MOST_TIMES = 4  # the bytes of all tensors together, at most so many times those of the file: some share a storage


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file: key names it, kind as in STORAGES, count of them."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: a part of a Storage. offset and stride in numbers."""

    storage: Storage
    offset: int
    shape: tuple
    stride: tuple


class Mark:
    """What the opcode MARK puts on the stack."""


# ---- what the globals stand for ------------------------------------------------------------------------------------


def _view(storage, offset, shape, stride, *rest):
    numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise InputError(f"a tensor of {storage!r}, offset {offset!r}, size {shape!r} and stride {stride!r}")
    if len(shape) != len(stride):
        raise InputError(f"a tensor of size {shape} and stride {stride}: of different lengths")
    return View(storage, offset, shape, stride)


def _parameter(view, *rest):
    if not isinstance(view, View):
        raise InputError(f"a parameter of {type(view).__name__}, expected a tensor")
    return view


def _ordered(pairs=()):
    if pairs:
        raise InputError("an OrderedDict that is made of something")
    return {}


def _no_function(*_):
    raise InputError("a type of storage that is called")


GLOBALS = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_tensor"): _view,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): _no_function for name in STORAGES},
}


@dataclass(frozen=True)
class Global:
    """A name that the pickle asked for, one of GLOBALS."""

    module: str
    name: str


# ---- the machine ---------------------------------------------------------------------------------------------------


class Machine:
    """Runs one pickle of `data` from `position` on: `run` returns what it leaves. `position` then is behind it."""

    def __init__(self, data, position=0):
        self.data, self.position, self.stack, self.memo = data, position, [], {}

    def run(self):
        while True:
            code = self._take(1)
            if code == b".":
                if len(self.stack) != 1:
                    raise InputError(f"{len(self.stack)} objects at its end, expected one")
                return self.stack[0]
            if code not in OPCODES:
                raise InputError(f"opcode {code!r} at byte {self.position - 1}, which a dict of tensors does not need")
            OPCODES[code](self)

    def _take(self, count):
        start, self.position = self.position, self.position + count
        if self.position > len(self.data):
            raise InputError("it ends too soon")
        return bytes(self.data[start : self.position])

    def _number(self, layout):
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _pop(self, kind=object):
        if not self.stack or isinstance(self.stack[-1], Mark) or not isinstance(self.stack[-1], kind):
            raise InputError(f"an opcode before byte {self.position} that does not find what it needs")
        return self.stack.pop()

    def _since_mark(self):
        found = []
        while self.stack and not isinstance(self.stack[-1], Mark):
            found.append(self.stack.pop())
        if not self.stack:
            raise InputError(f"an opcode before byte {self.position} without its mark")
        self.stack.pop()
        return found[::-1]

    def tuple_of(self, count):
        items = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def line(self):
        end = self.data.find(b"\n", self.position, self.position + 200)
        if end < 0:
            raise InputError(f"a name at byte {self.position} that does not end")
        return self._take(end + 1 - self.position)[:-1].decode("utf-8", "replace")

    def global_name(self):
        found = Global(self.line(), self.line())
        if (found.module, found.name) not in GLOBALS:
            raise InputError(f"asks for {found.module}.{found.name}, which is not needed for tensors and not run")
        self.stack.append(found)

    def text(self):
        try:
            self.stack.append(self._take(self._number("<I")).decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"a text before byte {self.position} that is not UTF-8") from None

    def long(self):
        self.stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def recall(self, layout):
        number = self._number(layout)
        if number not in self.memo:
            raise InputError(f"object {number} is recalled before byte {self.position}, and was never kept")
        self.stack.append(self.memo[number])

    def keep(self, layout):
        number = self._number(layout)
        self.stack.append(self._pop())
        self.memo[number] = self.stack[-1]

    def call(self):
        arguments, what = self._pop(tuple), self._pop(Global)
        try:
            self.stack.append(GLOBALS[what.module, what.name](*arguments))
        except TypeError:  # another number of arguments
            raise InputError(f"{what.module}.{what.name} of {len(arguments)} arguments") from None

    def persistent(self):
        """('storage', type, key, location, count), in the older layout with None at the end."""
        told = self._pop(tuple)
        if len(told) == 6 and told[5] is None:
            told = told[:5]
        if len(told) != 5 or told[0] != "storage" or not isinstance(told[1], Global) or told[1].name not in STORAGES:
            raise InputError(f"an object outside the pickle that is no storage: {str(told)[:80]}")
        if not isinstance(told[2], str) or type(told[4]) is not int or told[4] < 0:
            raise InputError(f"a storage {str(told[2])[:40]!r} of {told[4]!r} numbers")
        self.stack.append(Storage(told[2], STORAGES[told[1].name], told[4]))

    def set_items(self, items):
        if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise InputError(f"a dict before byte {self.position} whose keys are not texts")
        whole = self._pop(dict)
        whole.update(zip(items[::2], items[1::2], strict=True))
        self.stack.append(whole)

    def build(self):
        """Attributes of an object: those of an OrderedDict (_metadata), which say nothing of tensors."""
        self._pop(dict)
        self.stack.append(self._pop(dict))

    def append(self, items):
        whole = self._pop(list)
        whole.extend(items)
        self.stack.append(whole)


def _push(value):
    return lambda m: m.stack.append(value() if callable(value) else value)


def _protocol(machine):
    if (found := machine._number("<B")) > 3:
        raise InputError(f"pickle protocol {found}, expected 2")


OPCODES = {
    b"\x80": _protocol, b"c": Machine.global_name, b"Q": Machine.persistent, b"R": Machine.call, b"b": Machine.build,
    b"(": _push(Mark), b"}": _push(dict), b"]": _push(list), b")": _push(()), b"N": _push(None),
    b"\x88": _push(True), b"\x89": _push(False),
    b"t": lambda m: m.stack.append(tuple(m._since_mark())), b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2), b"\x87": lambda m: m.tuple_of(3),
    b"X": Machine.text, b"\x8a": Machine.long, b"J": lambda m: m.stack.append(m._number("<i")),
    b"K": lambda m: m.stack.append(m._number("<B")), b"M": lambda m: m.stack.append(m._number("<H")),
    b"G": lambda m: m.stack.append(m._number(">d")),
    b"q": lambda m: m.keep("<B"), b"r": lambda m: m.keep("<I"),
    b"h": lambda m: m.recall("<B"), b"j": lambda m: m.recall("<I"),
    b"s": lambda m: m.set_items([m._pop(), m._pop()][::-1]), b"u": lambda m: m.set_items(m._since_mark()),
    b"a": lambda m: m.append([m._pop()]), b"e": lambda m: m.append(m._since_mark()),
}  # fmt: skip


# ---- the files -----------------------------------------------------------------------------------------------------


def read_pickled(path):
    """{name: array} of a file that torch.save wrote of a dict of tensors, or of one under "state_dict" in a dict.

    float16 and bfloat16 become float32; what is no tensor is left out. InputError for anything else.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        top, storages = _zipped(path) if data[:4] == b"PK\x03\x04" else _older(data)
        return _tensors(top, storages, len(data))
    except InputError as error:
        raise InputError(f"{path}: not a file of tensors that can be read: {error}") from None


def _zipped(path):
    """(what the pickle leaves, Storage -> its bytes) of the zip layout."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if squeezed := [n for n, e in entries.items() if e.compress_type != zipfile.ZIP_STORED]:
                raise InputError(f"{squeezed[0]} is compressed, which torch.save does not do")
            roots = [n.removesuffix("data.pkl") for n in entries if n.endswith("/data.pkl")]
            if len(roots) != 1:
                raise InputError(f"{len(roots)} files data.pkl in the archive, expected one")
            (root,) = roots
            if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
                raise InputError("numbers are not little-endian")
            return Machine(archive.read(f"{root}data.pkl")).run(), {
                n.removeprefix(f"{root}data/"): archive.read(n) for n in entries if n.startswith(f"{root}data/")
            }
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        struct.error,
        ValueError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a damaged archive: {error}") from None


def _older(data):
    """The same of the layout before PyTorch 1.6."""
    position, found = 0, []
    for _ in range(5):
        machine = Machine(data, position)
        found.append(machine.run())
        position = machine.position
        if found[0] != MAGIC:
            raise InputError("neither an archive nor the older layout of torch.save")
    _, version, system, top, keys = found
    if version != VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError(f"version {version!r} of the older layout, or numbers that are not little-endian")
    kinds = {view.storage.key: view.storage for view in _views(top).values()}
    storages = {}
    for key in keys if isinstance(keys, list) else ():
        if key not in kinds:
            raise InputError(f"a storage {str(key)[:40]!r} that no tensor has")
        start = position + 8
        size = kinds[key].count * _width(kinds[key].kind)
        if data[position:start] != struct.pack("<q", kinds[key].count) or start + size > len(data):
            raise InputError(f"storage {key}: not of the {kinds[key].count} numbers that its tensors speak of")
        storages[key], position = data[start : start + size], start + size
    return top, storages


def _views(top):
    """{name: View} of what the pickle leaves."""
    if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
        top = top["state_dict"]
    if not isinstance(top, dict):
        raise InputError(f"it holds a {type(top).__name__}, expected a dict of tensors")
    views = {name: value for name, value in top.items() if isinstance(value, View)}
    if not views:
        raise InputError("no tensors in it")
    return views


def _width(kind):
    return 2 if kind == "bf16" else np.dtype(kind).itemsize


def _tensors(top, storages, file_size):
    """{name: array}; sizes and strides are held against the storages before anything is looked at."""
    tensors, total = {}, 0
    for name, view in _views(top).items():
        storage, numbers = view.storage, math.prod(view.shape)
        raw, width = storages.get(storage.key), _width(storage.kind)
        if raw is None or len(raw) < storage.count * width:
            raise InputError(f"{name}: storage {storage.key[:40]} of {storage.count} numbers is not there")
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) if numbers else -1
        if len(view.shape) > 8 or numbers > storage.count or last >= storage.count:
            told = f"size {view.shape}, stride {view.stride}, offset {view.offset}"
            raise InputError(f"{name}: {told} do not fit a storage of {storage.count} numbers")
        total += numbers * max(width, 4)
        if total > MOST_TIMES * max(file_size, 2**10):
            raise InputError(f"{name}: the tensors together are {MOST_TIMES} times as large as the file")
        flat = np.frombuffer(raw, "<u2" if storage.kind == "bf16" else np.dtype(storage.kind).newbyteorder("<"))
        steps = tuple(s * flat.itemsize for s in view.stride)
        start = flat[view.offset :] if numbers else flat[:0]
        part = np.lib.stride_tricks.as_strided(start, view.shape, steps, writeable=False) if numbers else start
        tensors[name] = _as_numpy(part.reshape(view.shape), storage.kind, name)
    return tensors


def _as_numpy(part, kind, name):
    """A contiguous array of a type that NumPy computes with; InputError for numbers that are not finite."""
    if kind == "bf16":
        values = (part.astype(np.uint32) << 16).view(np.float32)
    else:
        values = part.astype(np.float32 if kind == "f2" else part.dtype.newbyteorder("="))
    return all_finite(np.ascontiguousarray(values).reshape(part.shape), name)
