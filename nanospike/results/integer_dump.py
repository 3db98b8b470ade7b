"""A student as a file of integers, for those who build hardware: arrays, and a README that says what they are.

OUT/integers.npz holds what model.integer makes of a student, in names and shapes of its own: what is in it, and the
arithmetic that goes with it, is README beside it. A page of NumPy that runs it is docs/integer.md.
"""

import shutil

import numpy as np

from ..config.errors import InputError
from ..data.text import label_names
from ..files.model_files import TOKENIZER_FILES, replacing
from ..model.integer import EXPONENTS, SCORE_BITS, tables, whole
from ..model.integer_run import constants_for
from ..model.neuron import SPIKES, spikes_of
from ..model.simulate import SpikingRun

ARRAYS, README = "integers.npz", "README.md"
LAYOUT = """\
# A spiking student in integers

`integers.npz` (NumPy: `np.load`) holds a student of nanospike: {encoders} encoders of width {hidden} with
{heads} heads, {labels} outputs{names}. With it, additions, shifts and comparisons give its decisions spike for spike,
for up to {longest} time steps in 32 bits, but for the sums x before a norm: 64.

One text is a row of L token numbers, the first [CLS], the last [SEP]. Populations are visited in the order `embedding`,
then per encoder i `encoder.i.` `query`, `key`, `value`, `attention`, `attention_output`, `intermediate`, `output`. t is
the time step, from 1; c of a population the sum of what its neurons have fired so far, (L, width).

    words, positions, segments      (rows, {hidden}) int32: the embedding is a sum of three rows, x
    heads, encoders, longest        int16: heads of an encoder; encoders; time steps that 32 bits are enough for
    score_bits, context_bits        int8; power_sums (15,) int32: see "Attention"
    classifier.weights, .bias       ({hidden}, {labels}) int8, ({labels},) int32: logits are c[0] weights + bias t, c
                                    of the last output, in units of logit_unit / t
    logit_unit                      float64: for whoever wants logits; the best one is the best without it

    of each encoder, "encoder.i." before the name
    inward.weights                  ({hidden}, 3 x {hidden}) int8, -1, 0 or 1: query, key and value side by side
    inward.shift                    (3 x {hidden},) int8: drive = (c weights) << shift, c of the population before
    mix.weights                     ({hidden}, {hidden}) int8: of attention_output
    widen.weights, widen.shift      ({hidden}, width) int8, (width,) int8: of intermediate, as those of inward
    narrow.weights                  (width, {hidden}) int8: of output
    half                            int64: see "Attention"

    of each population, its name before
    cost, bias, level               (width,) int32: see "Neurons"
    kind                            int8: 0 fires +1; 1 also -1 where its c is above 0; 2 also -1

    of attention_output and output, the populations behind a norm
    scale, residual, before         ({hidden},) int32: x = scale (c weights) + residual c' + before t, c' of what goes
                                    past the matrix: the encoder's input, or attention_output

    of these two and of embedding, see "Norms"
    edges                           (n,) int64
    triples, exponents              (n + 1,) int8
    places, live                    ({hidden},) int8
    after, limit                    ({hidden},) int32

## Neurons

    ahead = drive + bias t - cost c
    fires +1 where ahead >= level, -1 where ahead <= -level and its kind allows it;  c is then counted on

The embedding's drive is t times what its norm makes of x with t = 1: x is the same at every step.

## Norms

    size  = sum of |x| over the row
    n     = how many of edges t are at most size
    y     = triples[n] x, shifted left by places - exponents[n] (to the right where that is negative), and live
    drive = y + after t, cut off at limit t and -limit t

Shifts to the right round down. `live` is -1, and 0 where a gain is next to nothing. What is cut off changes no spike.

## Attention

Head by head, q, k, v the c of query, key and value of its columns:

    score = q . k
    d     = how many of  ((2 n + 1) t t half) >> score_bits,  n = 0 ... 15,  are below  max score - score
    p     = 2^(15 - d) for d < 16; a key with d = 16 is left out
    r     = d + how many of power_sums are below the sum of p
    drive = sum over keys of  (2^context_bits >> r) v
"""


def write_integers(student, out):
    """Write the dump of a student into the directory `out`, which must be empty or absent. InputError as for a run."""
    computing = student.computing()
    how = SpikingRun(time_steps=1, arithmetic="integer").resolved(student.config)
    constants = constants_for(computing, how)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: expected a directory that is empty or absent")
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        np.savez_compressed(temporary / ARRAYS, **dump(computing, constants, how.spikes))
        (temporary / README).write_text(_layout(student, constants), encoding="utf-8")
        for path in (student.directory / name for name in TOKENIZER_FILES if student.directory):
            if path.exists():
                shutil.copyfile(path, temporary / path.name)


def dump(student, constants, spikes):
    """{name in the file: array}, as the README says."""
    config = student.config
    found = {
        "heads": np.int16(config.num_attention_heads),
        "encoders": np.int16(config.num_hidden_layers),
        "longest": np.int16(min(constants.longest()[0], 2**15 - 1)),
        "score_bits": np.int8(SCORE_BITS),
        "context_bits": np.int8(constants.context_bits),
        "power_sums": EXPONENTS,
        "classifier.weights": constants.classifier.astype(np.int8),
        "classifier.bias": constants.class_bias,
        "logit_unit": np.float64(constants.logit_scale),
    }
    for name, table in zip(("words", "positions", "segments"), tables(student.tree), strict=True):
        rows = whole(table[np.arange(table.shape[0])], constants.embedded.point) * constants.signs
        found[name] = rows
    for name, cells in constants.cells.items():
        kind = SPIKES.index(spikes_of(name, spikes, config))
        level = np.rint(cells.cost / 2).astype(np.int32)
        found |= {f"{name}.cost": cells.cost, f"{name}.bias": cells.bias, f"{name}.level": level}
        found[f"{name}.kind"] = np.int8(kind)
    found |= _norm("embedding", constants.embedded)
    for i, encoder in enumerate(constants.encoders):
        at = f"encoder.{i}."
        found[at + "half"] = np.int64(encoder.half)
        for name in ("inward", "mix", "widen", "narrow"):
            found[f"{at}{name}.weights"] = getattr(encoder, name).weights.astype(np.int8)
        for name in ("inward", "widen"):
            found[f"{at}{name}.shift"] = getattr(encoder, name).shift.astype(np.int8)
        for name, norm in (("attention_output", encoder.mixed), ("output", encoder.narrowed)):
            found |= _norm(at + name, norm)
            for kind in ("scale", "residual", "before"):
                found[f"{at}{name}.{kind}"] = getattr(norm, kind).astype(np.int32)
    return found


def _norm(name, norm):
    return {
        f"{name}.edges": norm.steps,
        f"{name}.triples": norm.triples.astype(np.int8),
        f"{name}.exponents": norm.exponents.astype(np.int8),
        f"{name}.places": (norm.shift - norm.point).astype(np.int8),
        f"{name}.live": norm.live.astype(np.int8),
        f"{name}.after": norm.after.astype(np.int32),
        f"{name}.limit": norm.limit.astype(np.int32),
    }


def _layout(student, constants):
    config, names = student.config, label_names(student.directory) if student.directory else {}
    return LAYOUT.format(
        encoders=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        labels=config.num_labels,
        names="".join(f", {i}: {name}" for i, name in sorted(names.items())),
        longest=constants.longest()[0],
    )
