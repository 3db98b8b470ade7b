"""Text that is larger than memory: tokenised once into a store on disk, whose examples are read through the memory map.

In memory at any time: some CHUNK characters and their tokens while the store is made, then the examples of one batch.
What grows with the corpus is the order of an epoch (text.batch_order): 4 bytes a window, and 2 for its length.
"""

import codecs
import hashlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ..config.errors import InputError
from ..files.cache import kept, map_file, release
from ..files.model_files import read_json, write_json
from .tokenizer import frame, ids_end

CHUNK = 2**20  # characters that are read and tokenised at a time; a longer line comes in parts
FORMAT = 1  # of the store, part of its name


@dataclass(frozen=True)
class Corpus:
    """Text files, a paragraph a line, that were found to be readable; key: a hash of what their windows depend on."""

    paths: tuple
    tokenizer: object
    max_length: int
    key: str

    def tokenised(self, directory):
        """The TokenStore of this text in `directory`, which is made there unless an earlier run left it."""
        place = Path(directory) / f"corpus-{self.key[:32]}"
        return TokenStore(kept(place, lambda temporary: write_store(temporary, self)))


def read_corpus(paths, tokenizer, max_length):
    """The Corpus of text files; reads them once, a chunk at a time.

    InputError for a file that cannot be read twice, is not UTF-8 or has no text.
    """
    key = hashlib.sha256(f"{FORMAT} {max_length} {tokenizer.to_str()}".encode())
    for path in paths:
        key.update(fingerprint(path).encode())
    return Corpus(tuple(paths), tokenizer, max_length, key.hexdigest())


def fingerprint(path):
    """SHA-256 of a text file; InputError unless all of it is UTF-8 and some of it is text."""
    path, digest, decoder = Path(path), hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a plain file; a corpus is read more than once")
    done, found = 0, False
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                found |= bool(_decoded(decoder, chunk, done, path, final=False).strip())
                done += len(chunk)
            _decoded(decoder, b"", done, path, final=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if not found:
        raise InputError(f"{path}: no text in it, expected a paragraph a line")
    return digest.hexdigest()


def _decoded(decoder, chunk, done, path, final):
    """The text of the bytes from `done` on; `decoder` still holds those of a character that was cut in two."""
    begin = done - len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at byte {begin + error.start}") from None


def parts(path):
    """(text, ends) of the non-empty lines of a file: `ends` is False for a part after which the line goes on.

    A line is cut at a space, if CHUNK characters have one, so that a word stays whole.
    """
    held, goes_on = "", False
    with open(path, encoding="utf-8") as file:
        while chunk := file.readline(CHUNK):
            text, ends = held + chunk, len(chunk) < CHUNK or chunk.endswith("\n")
            cut = len(text) if ends else text.rfind(" ") + 1 or len(text)
            held, text = text[cut:], text[:cut].strip()
            if text or goes_on:
                yield text, ends
                goes_on = not ends
    if held or goes_on:
        yield held.strip(), True


def chunks(paths):
    """Lists of the parts of all files, of some CHUNK characters each."""
    some, characters = [], 0
    for text, ends in chain.from_iterable(map(parts, paths)):
        some.append((text, ends))
        characters += len(text)
        if characters >= CHUNK or len(some) >= CHUNK // 16:
            yield some
            some, characters = [], 0
    if some:
        yield some


def windows(tokenizer, paths, max_length):
    """Lists of windows, each a list of at most max_length ids between the two of tokenizer.frame; no piece is cut off.

    A line is split into as few windows as it takes. The tokenizer spreads the lines of a chunk over the cores, unless
    TOKENIZERS_PARALLELISM=false.
    """
    first, last = frame(tokenizer)
    width, held = max_length - 2, []
    for some in chunks(paths):
        found = []
        encoded = tokenizer.encode_batch_fast([text for text, _ in some], add_special_tokens=False)
        for pieces, (_, ends) in zip(encoded, some, strict=True):
            ids = held + pieces.ids
            stop = len(ids) if ends else len(ids) - len(ids) % width
            found += [[first, *ids[i : min(i + width, stop)], last] for i in range(0, stop, width)]
            held = ids[stop:]
        yield found


def write_store(directory, corpus):
    """Fill `directory`: tokens, flat; offsets (n+1,), where each window begins in them; lengths (n,); kinds.json."""
    pieces = ids_end(corpus.tokenizer)
    kinds = {"tokens": _smallest(pieces), "lengths": _smallest(corpus.max_length + 1), "offsets": "<i8"}
    end = 0
    with open(directory / "tokens", "wb") as tokens, open(directory / "offsets", "wb") as offsets:
        with open(directory / "lengths", "wb") as lengths:
            np.zeros(1, np.int64).tofile(offsets)
            for found in windows(corpus.tokenizer, corpus.paths, corpus.max_length):
                counts = np.array([len(w) for w in found], np.int64)
                np.fromiter(chain.from_iterable(found), kinds["tokens"], counts.sum()).tofile(tokens)
                counts.astype(kinds["lengths"]).tofile(lengths)
                (end + counts.cumsum()).astype("<i8").tofile(offsets)
                end += int(counts.sum())
    if not end:
        raise InputError(f"{', '.join(map(str, corpus.paths))}: the tokenizer finds no word pieces in it")
    write_json(directory / "kinds.json", kinds)


def _smallest(values):
    """The unsigned type for numbers below `values`."""
    return "<u2" if values <= 2**16 else "<u4"


class TokenStore:
    """Windows of a corpus on disk, as training data (see text.Encoded): no labels, one segment.

    lengths: (n,) unsigned, memory-mapped.
    """

    labels = None

    def __init__(self, directory):
        self.name = Path(directory).name
        kinds = read_json(directory / "kinds.json")
        self.maps = {name: map_file(directory / name) for name in kinds}
        arrays = {name: np.frombuffer(self.maps[name], kind) for name, kind in kinds.items()}
        self.tokens, self.offsets, self.lengths = (arrays[n] for n in ("tokens", "offsets", "lengths"))

    def __len__(self):
        return len(self.lengths)

    def examples(self, index):
        """[(ids (L,), types (L,))] of the examples `index`, int64, copied from the map."""
        index = np.asarray(index)
        places = zip(self.offsets[index], self.offsets[index + 1], strict=True)
        rows = [self.tokens[start:stop].astype(np.int64) for start, stop in places]
        release(*self.maps.values())
        return [(ids, np.zeros_like(ids)) for ids in rows]

    def digest(self):
        """A name that no other windows have."""
        return self.name
