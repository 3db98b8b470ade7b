"""What every part of the package raises where its input cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what, what was found, what was expected."""
