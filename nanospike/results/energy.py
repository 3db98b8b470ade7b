"""energy.json: a student at several numbers of time steps beside its teacher and ordinary BERTs of its size.

One table, never one number; the accountings are those of costs.py.
"""

from dataclasses import asdict, fields

import numpy as np

from ..arrays.tree import nest
from ..config.models import BertConfig, StudentConfig
from ..config.operators import OPERATORS
from ..files.model_files import stored_bits
from ..model.counting import Neuron
from ..model.quantise import low_bit_names, quantised
from .audit import audit, audit_table, by_kind
from .costs import PRESETS, Model, ordinary_energy, spiking_energy

AUDITED = 4  # time steps of the audit, or the most below, where a student recommends none
CROSSOVER = 0.285  # spikes per neuron and inference below which spiking wins at T = 5: 5.7 % (arXiv 2409.08290v4)
RIVALS = {"teacher": "teacher", "ann": "ordinary BERT of this size", "ann_int8": "the same in int8"}


def spiking_model(student, how):
    """The Model of a student that runs as the resolved simulate.SpikingRun says."""
    bits = stored_bits(student.directory) if student.directory else {}
    tree = quantised(student.tree, student.config)
    neuron = Neuron.of(how.spikes, student.config.leak)
    return Model(student.config, tree, bits, neuron=neuron, drive=how.drive, arithmetic=how.arithmetic)


def same_size(student, bits=None):
    """The Model of an ordinary BERT of a student's size: its weights in the student's bits, 32 where those are few.

    None of its weights is 0, as many of a ternary student are.
    """
    own = stored_bits(student.directory) if student.directory else {}
    shape = {f.name: getattr(student.config, f.name) for f in fields(BertConfig)}
    config = StudentConfig(**shape, activation="ann", intermediate_sizes=student.config.intermediate_sizes)
    low_bit, one = low_bit_names(student.config), np.ones(1, np.int8)
    full = {n: np.broadcast_to(one, p.shape) if n in low_bit else p for n, p in student.parameters().items()}
    return Model(config, nest(full), {} if bits else {n: b for n, b in own.items() if b >= 8}, bits or 32)


def teacher_model(teacher):
    """The Model of a teacher as an ordinary network, also where it is a student that teaches at its equilibrium."""
    family = getattr(teacher, "family", None)
    bits = stored_bits(teacher.directory, *([family.prefix] if family else [])) if teacher.directory else {}
    return Model(teacher.config, teacher.tree, family.our_tensors(bits) if family else bits)


def energies(student, how, counts, results, constants, others=()):
    """What energy.json holds, of the Counts of a run and the results of evaluate_student of the same run.

    how: the resolved SpikingRun. others: a teacher and an ordinary BERT of the student's size as (model, accuracy) or
    None; the latter's accuracy may be None, and so may both.
    """
    model, steps = spiking_model(student, how), sorted(map(int, results["equilibrium_gap"]))
    teacher, ann = (*others, None, None)[:2]
    small, int8 = same_size(student), same_size(student, 8)
    theirs = PRESETS["float32"] if constants == PRESETS["int32"] else constants  # they do not count in integers
    scores = results.get("spiking") or {}
    by_time = {
        str(t): spiking_energy(model, counts, how.spikes, t, constants) | {"accuracy": scores.get(str(t))}
        for t in steps
    }
    recommended = student.raw_config.get("recommended_time_steps")
    shown = recommended if recommended in steps else max([t for t in steps if t <= AUDITED] or steps[:1])
    return {
        **{name: results.get(name) for name in ("task", "metric", "examples", "drive", "spikes")},
        "tokens": int(counts.tokens[0]) / int(counts.texts[0]),
        "words": words_of(student.config, how.spikes),
        "constants": asdict(constants),
        "time_steps": by_time,
        "teacher": teacher and ordinary_energy(teacher_model(teacher[0]), counts, theirs) | {"accuracy": teacher[1]},
        "ann": ordinary_energy(small, counts, theirs) | {"accuracy": ann},
        "ann_int8": ordinary_energy(int8, counts, theirs, PRESETS["int8"]) | {"accuracy": None},
        "crossover_t_r": CROSSOVER,
        "audit_time_steps": shown,
        "audit": audit(model, counts, constants, shown),
    }


def of_results(student, how, results, teacher=None):
    """energies of the counts in the results of a counted evaluate_student, which are taken out of them.

    results: with its teacher's score, if there is a teacher. The prices are float32's, of a run in integers int32's.
    """
    constants = PRESETS["int32" if how.arithmetic == "integer" else "float32"]
    counts, rival = results.pop("counts"), teacher and (teacher, results["teacher"])
    return energies(student, how.resolved(student.config), counts, results, constants, (rival, None))


def words_of(config, spikes):
    """What the field calls such a student."""
    operators = "multiplication-free" if config.shifts == OPERATORS else "hybrid: some operators act on rates in float"
    return f"{operators}; {'ternary' if spikes == 'signed' else spikes} spikes"


def energy_table(found):
    """An energy.json as lines of text: the table, what it says, and the audit by kind."""
    about = f"{found['task']}, {found['metric']}, {found['examples']} examples of {found['tokens']:.1f} tokens"
    head = f"  {'':<28}{'score':>9}{'spikes':>9}{'SOP':>11}{'with memory':>14}{'/ bit-matched':>15}"
    lines = [f"{about}; {found['words']}", f"{head}     (per text; spikes per neuron: T r)"]
    rows = [(RIVALS[name], found[name]) for name in RIVALS if found[name]]
    rows += [(f"student, T = {t}", row) for t, row in found["time_steps"].items()]
    for name, row in rows:
        score = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %"
        t_r, ratio = (f"{v:.2f}" if v is not None else "" for v in (row["t_r"], row["bit_matched_ratio"]))
        sop, memory = (f"{row[key] / 1e6:.3f} µJ" for key in ("sop_pj", "memory_pj"))
        lines.append(f"  {name:<28}{score:>9}{t_r:>9}{sop:>11}{memory:>14}{ratio:>15}")
    lines += [
        "",
        *(f"  {line}" for line in in_words(found)),
        "",
        f"The audit of one text, T = {found['audit_time_steps']}:",
    ]
    return "\n".join([*lines, audit_table(found["audit"])])


def in_words(found):
    """What the numbers say, a list of sentences; what each accounting leaves out is in docs/energy.md."""
    shown = found["audit_time_steps"]
    row, ann, teacher = found["time_steps"][str(shown)], found["ann"], found["teacher"]
    times = lambda other, key: f"{row[key] / other[key]:.2f}"  # noqa: E731
    lines = [f"At T = {shown} the student takes {times(ann, 'sop_pj')} of the energy of an ordinary BERT of its size "
             f"if operations alone count, {times(ann, 'memory_pj')} of it if memory does."]  # fmt: skip
    if teacher:
        lines.append(
            f"Of its teacher's it takes {times(teacher, 'sop_pj')}, with memory {times(teacher, 'memory_pj')}."
        )
    ratio, t_r = row["bit_matched_ratio"], row["t_r"]
    verdict = "spiking loses" if ratio > 1 else "spiking wins"
    lines.append(f"Against an ordinary network of the same weights with as many levels: {ratio:.2f}, {verdict}.")
    side, limit = "above" if t_r > found["crossover_t_r"] else "below", found["crossover_t_r"]
    lines.append(
        f"Spikes per neuron and text: {t_r:.2f}, {side} the {limit} of arXiv 2409.08290 at T = 5, where memory counts."
    )
    floats = by_kind(found["audit"])["float"]
    if floats[0]:
        lines.append(
            f"{100 * floats[1]:.1f} % of its operations are floating-point operations on rates: it is a hybrid."
        )
    return lines


def neurobench(found, student, how, counts):
    """{"T": results under NeuroBench 2.3's names}; its MembraneUpdates counts changed membranes and is left out."""
    bits, parameters = stored_bits(student.directory), student.parameters()
    footprint = sum(p.size * bits.get(name, 32) / 8 for name, p in parameters.items())
    matrices = [part for part in spiking_model(student, how).parts if getattr(part, "weight", None)]
    every, used = (sum(n) for n in zip(*((m.outputs * len(m.used), int(m.used.sum())) for m in matrices), strict=True))
    return {
        t: {
            "Footprint": footprint,
            "ConnectionSparsity": round(1 - used / every, 4),
            "ClassificationAccuracy": row["accuracy"],
            "ActivationSparsity": 1 - counts.spikes_per_neuron(int(t)) / int(t),
            "SynapticOperations": row["synaptic_operations"],
        }
        for t, row in found["time_steps"].items()
    }
