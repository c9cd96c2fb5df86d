"""What can go wrong. Every text says what was given and what is allowed."""


class Error(Exception):
    """Any error of this package."""


class InputError(Error, ValueError):
    """A shape, a number or an option that does not fit."""


class ArrayTypeError(Error, TypeError):
    """What is no array, or one of a type that is not read."""


class CheckpointError(Error, ValueError):
    """A file that is no checkpoint, or not one of the model that was asked for."""


class FileError(Error, OSError):
    """A file that cannot be read or written."""


class DeviceError(Error, RuntimeError):
    """A device that is not there, was lost, is closed, or is of the process that this one was forked from."""


class MemoryExhausted(Error, MemoryError):
    """The device or the machine has no room."""
