"""Where the models and the text are that come with the package."""

from pathlib import Path

from ..config.errors import InputError


def bundled(*parts):
    """A path in the weights that come with the package; InputError if they are not there."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "weights", package.parent / "weights"):
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    raise InputError(f"{package.parent / 'weights' / Path(*parts)}: not installed; name a model or a data directory")
