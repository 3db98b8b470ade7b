"""Tokenizing, and batches of similar length with dynamic padding."""

import functools
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..arrays.backend import namespace, to_device
from ..config.errors import InputError
from .tokenizer import frame

MASK_TOKENS = ("[MASK]", "<mask>")
TEXTS_AT_A_TIME = 4096  # encoded; what the tokenizer returns is ten times as large as the ids
MASKING = 0x6D61736B  # in its random seeds, so that they are nobody else's
POOL = 50  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class Encoded:
    """Token ids of examples, without padding: ids and types are lists of int64 arrays (L,); labels (n,) or None.

    What training needs of its data: their number, lengths, labels, examples, digest. corpus.TokenStore has them too.
    """

    ids: list
    types: list
    labels: np.ndarray | None = None

    def __len__(self):
        return len(self.ids)

    @functools.cached_property
    def lengths(self):
        """(n,) int64; counted once, for every step of training asks for those of its batch."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def examples(self, index):
        """[(ids (L,), types (L,))] of the examples `index`."""
        return [(self.ids[i], self.types[i]) for i in index]

    def digest(self):
        """A hash of the ids and segments of all examples."""
        import hashlib

        digest = hashlib.sha256(self.lengths.tobytes())
        for ids, types in zip(self.ids, self.types, strict=True):
            digest.update(ids.tobytes() + types.tobytes())
        return digest.hexdigest()


def encode(tokenizer, texts, max_length, labels=None, quiet=False):
    """Encode texts, each a string or a pair of strings. Longer ones are cut to max_length pieces, with one warning."""
    tokenizer.no_truncation()
    ids, types, cut = [], [], 0
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        some = [t if isinstance(t, str) else tuple(t) for t in texts[start : start + TEXTS_AT_A_TIME]]
        _require_characters(some, start)
        pieces = tokenizer.encode_batch(some)
        too_long = [i for i, p in enumerate(pieces) if len(p.ids) > max_length]
        if too_long:
            tokenizer.enable_truncation(max_length)
            for i in too_long:
                pieces[i] = tokenizer.encode_batch([some[i]])[0]
            tokenizer.no_truncation()
        cut += len(too_long)
        ids += [np.array(p.ids, np.int64) for p in pieces]
        types += [np.array(p.type_ids, np.int64) for p in pieces]
    if cut and not quiet:
        warnings.warn(
            f"{cut} of {len(texts)} texts are longer than {max_length} word pieces and were cut", stacklevel=2
        )
    return Encoded(ids, types, labels)


def _require_characters(texts, start):
    """InputError for a text with half a surrogate pair, which is no character; start: the number of the first."""
    for i, text in enumerate(texts, start):
        try:
            "".join(text).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"text {i}: half a surrogate pair at character {error.start}, expected Unicode") from None


def encode_splits(tokenizer, splits, max_length):
    """{name: Encoded} of {name: tasks.Examples}: with one warning for all of them."""
    whole = encode(tokenizer, [t for s in splits.values() for t in s.texts], max_length)
    encoded, start = {}, 0
    for name, examples in splits.items():
        stop = start + len(examples.texts)
        encoded[name] = Encoded(whole.ids[start:stop], whole.types[start:stop], examples.labels)
        start = stop
    return encoded


def evenly(data, count):
    """An Encoded of `count` examples of an Encoded or a TokenStore, evenly spread; of all, if there are not so many."""
    count = min(count, len(data))
    index = np.arange(count) * len(data) // count
    ids, types = zip(*data.examples(index), strict=True)
    return Encoded(list(ids), list(types), None if data.labels is None else data.labels[index])


def require_segments(data, config, where):
    """InputError if the data have pairs of texts, and the model one segment only."""
    if config.type_vocab_size < 2 and any(types.any() for types in data.types):
        raise InputError(f"{where}: type_vocab_size is {config.type_vocab_size}, pairs of texts need 2")


@dataclass(frozen=True)
class Batch:
    """input_ids, attention_mask, token_type_ids (B, L) int64, labels (B,) or None, all on one device; index (B,) on the
    host: which examples they are."""

    input_ids: object
    attention_mask: object
    token_type_ids: object
    labels: object
    index: np.ndarray


def collate(data, index, device="cpu", length=0):
    """The examples `index` of an Encoded or a TokenStore, padded with 0 to the longest of them, `length` at least."""
    rows = data.examples(index)
    inputs = np.zeros((3, len(rows), max(length, *(len(row) for row, _ in rows))), np.int64)
    ids, mask, types = inputs
    for i, (row, segments) in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)], types[i, : len(row)] = row, 1, segments
    labels = None if data.labels is None else to_device(data.labels[index], device)
    return Batch(*to_device(inputs, device), labels, np.asarray(index))  # one copy to a device


@dataclass(frozen=True)
class Masking:
    """Each word piece of a batch is replaced by `piece`, [MASK], with a probability; `special` ones and padding never.

    What is replaced is a function of (seed, example), however a batch is split.
    """

    probability: float
    piece: int
    special: tuple

    @classmethod
    def of(cls, tokenizer, probability):
        """Of a tokenizer; InputError if it has no [MASK] and no <mask>."""
        pieces = [i for i in map(tokenizer.token_to_id, MASK_TOKENS) if i is not None]
        if not pieces:
            raise InputError(f"--mask: the teacher's tokenizer has no {' and no '.join(MASK_TOKENS)}")
        return cls(probability, pieces[0], tuple(sorted(set(frame(tokenizer)))))

    def __call__(self, batch, seed):
        """The Batch with other ids. seed: a sequence of ints."""
        xp, ids = namespace(batch.input_ids), batch.input_ids
        draws = [np.random.default_rng((*seed, MASKING, int(i))).random(ids.shape[1]) for i in batch.index]
        hidden = (xp.asarray(np.stack(draws)) < self.probability) & (batch.attention_mask != 0)
        for special in self.special:
            hidden &= ids != special
        return replace(batch, input_ids=xp.where(hidden, self.piece, ids))


@dataclass(frozen=True)
class BatchOrder:
    """The batches of one epoch, int64 index arrays: a sequence that makes each when it is asked for.

    examples (n,): every one once, those of a batch side by side; turns (batches,): which batch comes when.
    """

    examples: np.ndarray
    turns: np.ndarray
    batch_size: int

    def __len__(self):
        return len(self.turns)

    def __getitem__(self, step):
        start = int(self.turns[step]) * self.batch_size
        return self.examples[start : start + self.batch_size].astype(np.int64)


def batch_order(lengths, batch_size, seed):
    """The BatchOrder of one epoch: random, examples of similar length together, a function of the seed.

    `seed` is an int or a sequence of ints (run, stage, epoch). Takes 4 bytes an example, up to two thousand million.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.arange(len(lengths), dtype=np.int32 if len(lengths) < 2**31 else np.int64))
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
    return BatchOrder(order, rng.permutation(-(-len(order) // batch_size)), batch_size)


def in_length_order(encoded, batch_size):
    """Indices of batches that cover all examples once, sorted by length: least padding, for evaluation."""
    order = np.argsort(encoded.lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def read_text(path, encoding="utf-8"):
    """All of a text file; InputError for one that cannot be read."""
    try:
        return Path(path).read_text(encoding=encoding)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_lines(paths):
    """The non-empty lines of text files; InputError for a file that cannot be read or has none."""
    lines = []
    for path in paths:
        found = [s for line in read_text(path).split("\n") if (s := line.strip())]
        if not found:
            raise InputError(f"{path}: no text in it, expected a paragraph a line")
        lines += found
    return lines


def label_names(directory):
    """{label index: name} of a model's config.json, {} if it names none."""
    names = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8")).get("id2label") or {}
    return {int(k): str(v) for k, v in names.items()}
