"""nanospike: spiking language models, trained by implicit differentiation and run spike by spike, on NumPy or CuPy."""

from .backend import to_device, to_host
from .config import InputError
from .fresh import init_student
from .inference import predict
from .models import load_teacher
from .solve import solve_adjoint
from .student import load_student

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "init_student",
    "load_student",
    "load_teacher",
    "predict",
    "solve_adjoint",
    "to_device",
    "to_host",
]
