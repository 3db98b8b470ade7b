"""The teacher's activations on disk: computed once, read in every epoch through the memory map.

They are a function of the teacher and of the data, not of the order of training, so that other runs, seeds and students
can use them. Hidden states and attention scores are rounded to float16, which changes each by at most 2^-11 of itself
(0.05 %; below 6e-5 by at most 3e-8); logits stay float32.
"""

import functools
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..arrays.backend import to_device, to_host
from ..arrays.workers import ALONE
from ..config.errors import InputError
from ..data.text import collate, in_length_order
from ..files.cache import kept, last_used, map_tensors, release, size
from ..files.model_files import leftovers, write_tensors
from ..model.bert import FIRST, TeacherOutput
from ..model.loss import teacher_layers
from ..model.teacher import Teacher

BATCH = 32  # examples per forward pass of the teacher: fixed, because a batch's size shows in the last bits
SHARD = 2**23  # bytes, about; more where there would be more than FILES, each of which is kept open
FILES = 256
FORMAT = 1  # of the shards, part of their directory's name
ATTEMPTS = 3  # to find a directory whole, where other runs may remove it


@dataclass(frozen=True)
class Parts:
    """What a loss uses of the teacher: hidden states (0..M, 0 the embedding), attention scores (0..M-1), logits."""

    hidden: tuple
    attention: tuple
    logits: bool

    def nbytes(self, config, lengths):
        """Bytes on disk, all examples of these lengths together."""
        lengths = np.asarray(lengths, np.float64)
        per_token = 2 * config.hidden_size * len(self.hidden)
        per_pair = 2 * config.num_attention_heads * len(self.attention)
        rows = len(lengths) * (16 + 4 * config.num_labels * self.logits)
        whole = rows + per_token * lengths.sum() + per_pair * (lengths**2).sum()
        return int(whole) + 1024 * (2 + min(FILES, int(whole) // SHARD))  # headers and listing


def parts_of(encoders, teacher, weights):
    """The Parts that loss.distillation uses with these LossWeights, for a student of so many encoders."""
    layers = []
    if weights.hidden or weights.attention:
        layers = teacher_layers(encoders, teacher.config.num_hidden_layers, weights.layer_map)
    return Parts(
        tuple(sorted(set(layers))) if weights.hidden else (),
        tuple(sorted({i - 1 for i in layers[1:]})) if weights.attention else (),
        bool(weights.logits) and "classifier" in teacher.tree,
    )


def computed(teacher, batch, parts=None):
    """The TeacherOutput of a text.Batch, computed now; parts: the Parts that are wanted, all if None."""
    inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    logits_alone = parts is not None and not parts.hidden and not parts.attention
    if logits_alone and isinstance(teacher, Teacher) and teacher.device == "cpu":  # on a GPU a fused encoder is faster
        out = teacher.forward(inputs, differentiable=False, of=FIRST)[0]
        return TeacherOutput(None, None, out.logits)
    return teacher.forward(inputs, differentiable=False)[0]


def targets(teacher, data, parts, directory, limit, workers=ALONE):
    """() -> (batch -> TeacherOutput), from disk if the parts of all examples need at most `limit` bytes, else computed.

    Nothing is computed or written before the first call. That all teacher caches in `directory` together stay within
    `limit`, those that were not used for longest are removed.
    """

    @functools.cache
    def source():
        needed = parts.nbytes(teacher.config, data.lengths)
        if needed > limit:
            text = f"the teacher's activations need {needed / 1e9:.3g} GB, --teacher-cache allows {limit / 1e9:.3g}"
            print(f"{text}: computed in every epoch", file=sys.stderr)
            return functools.partial(computed, teacher, parts=parts)
        return _activations(teacher, data, parts, Path(directory), limit - needed, workers)

    return source


def _activations(teacher, data, parts, root, room, workers):
    """Activations from the directory of shards, made now unless it is there; `room`: bytes that others may keep."""
    place = root / f"teacher-{key_of(teacher, data, parts)[:32]}"

    def make(temporary):
        print(f"keeping the teacher's activations of {len(data)} examples in {place}", file=sys.stderr)
        for number, tensors in enumerate(shards(teacher, data, parts, workers)):
            write_tensors(temporary / f"{number:05d}.safetensors", tensors)

    forget_oldest(
        [p for p in root.glob("teacher-*") if p != place], room - sum(map(size, leftovers(root, "teacher-*")))
    )
    for attempt in range(ATTEMPTS):
        try:
            kept(place, make)
            os.utime(place)
            found = Activations(place, teacher, data, parts)
        except FileNotFoundError:  # another run has removed it in between, to keep to its limit
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if not found.missing:
            break
        print(f"{place}: {found.missing} of {len(data)} examples are in none of its files; made again", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
    else:
        raise InputError(f"{place}: examples are missing in it again and again; name another --cache-dir")
    return found


def forget_oldest(places, room):
    """Remove directories, the one used longest ago first, until they have at most `room` bytes."""
    for place in sorted(places, key=last_used):
        if sum(map(size, places)) <= room:
            break
        shutil.rmtree(place, ignore_errors=True)  # another run may be at it too


def key_of(teacher, data, parts):
    """A hash of everything that the activations depend on."""
    config = json.dumps([FORMAT, asdict(teacher.config), asdict(parts), data.digest()], sort_keys=True)
    digest = hashlib.sha256(config.encode())
    for name, array in sorted(teacher.parameters().items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(to_host(array)).data)
    return digest.hexdigest()


def shards(teacher, data, parts, workers=ALONE):
    """{name: array} of each shard. T tokens and n examples, one after the other, in the order of their lengths.

    examples, lengths (n,) int64; hidden (T, layers, D) and attention, flat, (layers, H, L, L) of each example, both
    float16; logits (n, C) float32.
    """
    rows, held = [], 0
    most = max(SHARD, parts.nbytes(teacher.config, data.lengths) // FILES)
    order = in_length_order(data, BATCH)
    for start in range(0, len(order), workers.size):
        found = workers.map(lambda index: _rows(teacher, data, index, parts), order[start : start + workers.size])
        rows += [row for some in found for row in some]
        held += sum(a.nbytes for some in found for row in some for a in row.values())
        if held >= most:
            yield _joined(rows)
            rows, held = [], 0
    if rows:
        yield _joined(rows)


def _joined(rows):
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _rows(teacher, data, index, parts):
    """The parts of each of the examples `index`, computed now, without padding, as the shards have them."""
    batch, rows = collate(data, index, teacher.device), []
    out = computed(teacher, batch)
    lengths = to_host(batch.attention_mask).sum(axis=1)
    hidden = [_half(out.hidden_states[i]) for i in parts.hidden]
    attention = [_half(out.attention_scores[i]) for i in parts.attention]
    logits = to_host(out.logits).astype(np.float32) if parts.logits else None
    for i, (example, n) in enumerate(zip(batch.index, lengths, strict=True)):
        row = {"examples": np.array([example], np.int64), "lengths": np.array([n], np.int64)}
        if hidden:
            row["hidden"] = np.stack([h[i, :n] for h in hidden], axis=1)
        if attention:
            row["attention"] = np.concatenate([a[i, :, :n, :n].ravel() for a in attention])
        if parts.logits:
            row["logits"] = logits[i : i + 1]
        rows.append(row)
    return rows


def _half(array):
    """On the host as float16; what is beyond its range (65504) becomes the largest number that it has."""
    most = float(np.finfo(np.float16).max)
    return to_host(array).clip(-most, most).astype(np.float16)


class Activations:
    """Kept activations: call it with a text.Batch for its TeacherOutput, in the teacher's dtype and on its device.

    Layers that are not kept are None, and so is a list of which no layer is kept. Padding is 0. missing: how many
    examples are in no shard; none of them may be asked for.
    """

    def __init__(self, directory, teacher, data, parts):
        self.config, self.device, self.parts = teacher.config, teacher.device, parts
        self.dtype = next(iter(teacher.parameters().values())).dtype
        self.shards = [map_tensors(path) for path in sorted(directory.glob("*.safetensors"))]
        self.places = np.zeros((len(data), 5), np.int64)  # shard, row in it, first token, first score, length
        for number, (tensors, _) in enumerate(self.shards):
            lengths = tensors["lengths"]
            scores = lengths**2 * self.config.num_attention_heads * len(parts.attention)
            starts = [np.cumsum(counts) - counts for counts in (lengths, scores)]
            columns = (np.full_like(lengths, number), np.arange(len(lengths)), *starts, lengths)
            self.places[tensors["examples"]] = np.stack(columns, axis=1)
        self.missing = int((self.places[:, 4] == 0).sum())  # no example has no tokens

    def __call__(self, batch):
        size, length = batch.input_ids.shape
        layers, heads = len(self.parts.attention), self.config.num_attention_heads
        hidden = np.zeros((len(self.parts.hidden), size, length, self.config.hidden_size), self.dtype)
        attention = np.zeros((layers, size, heads, length, length), self.dtype)
        logits = np.zeros((size, self.config.num_labels if self.parts.logits else 0), self.dtype)
        for i, (shard, row, token, score, n) in enumerate(self.places[batch.index].tolist()):
            tensors, _ = self.shards[shard]
            if self.parts.hidden:
                hidden[:, i, :n] = tensors["hidden"][token : token + n].swapaxes(0, 1)
            if layers:
                flat = tensors["attention"][score : score + layers * heads * n * n]
                attention[:, i, :, :n, :n] = flat.reshape(layers, heads, n, n)
            if self.parts.logits:
                logits[i] = tensors["logits"][row]
        release(*(mapping for _, mapping in self.shards))
        return TeacherOutput(
            self._listed(hidden, self.parts.hidden, self.config.num_hidden_layers + 1),
            self._listed(attention, self.parts.attention, self.config.num_hidden_layers),
            to_device(logits, self.device) if self.parts.logits else None,
        )

    def _listed(self, arrays, layers, depth):
        """A list with the array of each of the `layers`, None at the others; None if there are no layers."""
        known = dict(zip(layers, arrays, strict=True))
        return [to_device(known[i], self.device) if i in known else None for i in range(depth)] if layers else None
