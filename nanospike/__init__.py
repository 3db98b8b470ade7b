"""nanospike: spiking language models, trained by implicit differentiation and run spike by spike, on NumPy or CuPy."""

from .arrays.backend import to_device, to_host
from .config.errors import InputError
from .model.fresh import init_student
from .model.loading import load_student
from .model.probes import Probe
from .model.teacher import load_teacher
from .model.twins import use_fast
from .results.classifier import Classifier, predict
from .solvers.adjoint import solve_adjoint

__version__ = "0.2.0.dev0"
__all__ = [
    "Classifier",
    "InputError",
    "Probe",
    "init_student",
    "load_student",
    "load_teacher",
    "predict",
    "solve_adjoint",
    "to_device",
    "to_host",
    "use_fast",
]
