"""A student that teaches: its rates, scores and logits at the equilibrium in the place of a BERT's."""

import warnings
from pathlib import Path

from ..config.errors import InputError
from ..files.model_files import read_json
from . import equilibrium
from .bert import TeacherOutput
from .families import BERT
from .loading import load_student
from .teacher import load_teacher


class StudentTeacher:
    """A Student with what training asks of a teacher.Teacher."""

    def __init__(self, student):
        self.student, self.family = student, BERT
        self.config, self.tree, self.device = student.config, student.tree, student.device
        self.directory, self.raw_config = student.directory, student.raw_config

    def forward(self, inputs, differentiable=False):
        """(TeacherOutput, None) of ids, mask and segments that are known to be right."""
        if differentiable:
            raise InputError("a student that teaches is not trained itself")
        network = equilibrium.Network.on(self.student.computing().tree, self.config, *inputs)
        settled, _ = equilibrium.solve(network, differentiable=False)
        if not settled.converged:
            warnings.warn(f"teacher {self.directory}: {settled.message}", RuntimeWarning, stacklevel=2)
        return TeacherOutput(settled.hidden_states, settled.attention_scores, settled.logits), None

    def parameters(self):
        """{name: the live array}"""
        return self.student.parameters()


def load_any_teacher(directory, device="cpu"):
    """The Teacher, or the student that teaches, in a directory; InputError for one whose classifier is untrained."""
    directory = Path(directory)
    if read_json(directory / "config.json").get("model_type") != "nanospike":
        return load_teacher(directory, device)
    student = load_student(directory, device)
    if student.config.headless:
        raise InputError(f"--teacher {directory}: a student whose classifier was never trained")
    return StudentTeacher(student)
