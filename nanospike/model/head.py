"""What the outputs of a model stand for: the names of its classes, or the unit of a regression.

A regression is trained on standardised numbers, (y - mean) / deviation. The weights of its last layer are saved in the
unit of the labels, so that whoever reads the model gets that unit; config.json has the two numbers under `target`.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

from ..config.errors import InputError

TARGET = "target"  # the key in config.json


@dataclass(frozen=True)
class Scale:
    """mean and deviation (above 0) of a regression's training labels, in their unit."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, labels):
        return cls(float(np.mean(labels)), float(np.std(labels)))

    def standardised(self, labels):
        return (labels - self.mean) / self.deviation


def scale_of(model):
    """The Scale that a model's config.json tells, None if it tells none. InputError for one that cannot be."""
    given = model.raw_config.get(TARGET)
    if given is None:
        return None
    names = ("mean", "deviation")
    values = [given.get(n) for n in names] if isinstance(given, dict) else []
    number = [isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values]
    if len(values) != 2 or not all(number) or values[1] <= 0:
        found = f"found {given!r}, expected a mean and a deviation above 0"
        raise InputError(f"{model.directory}: config.json: {TARGET}: {found}")
    return Scale(*values)


def standardise(model, scale):
    """Let the last layer answer in standardised numbers from here on: it is changed in place."""
    if scale is not None:
        head = model.tree["classifier"]
        head["bias"] -= head["bias"].dtype.type(scale.mean)
        for values in head.values():
            values /= values.dtype.type(scale.deviation)


def in_its_unit(model, scale):
    """The inverse of standardise."""
    if scale is not None:
        head = model.tree["classifier"]
        for values in head.values():
            values *= values.dtype.type(scale.deviation)
        head["bias"] += head["bias"].dtype.type(scale.mean)


def described(task, scale=None):
    """What config.json says of the outputs: names and numbers of the classes, and the Scale of a regression."""
    names = {"id2label": task.id2label, "label2id": {name: int(i) for i, name in task.id2label.items()}}
    names["problem_type"] = "single_label_classification" if task.id2label else "regression"
    return names | ({} if scale is None else {TARGET: asdict(scale)})
