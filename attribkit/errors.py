"""What the library raises on purpose: an `AttribkitError` that is also the built-in error one would expect."""


class AttribkitError(Exception):
    """Something was asked for that cannot be done; the message says what to do instead.

    The commands print it in one line (`Unclear` in a few). Any other exception that comes out of the library is a bug.
    """


class BadValue(AttribkitError, ValueError):
    """A value that makes no sense here."""


class Unclear(BadValue):
    """A name that may mean several things, or nothing: the line is followed by one line per candidate."""


class BadType(AttribkitError, TypeError):
    """A thing of a kind that is not taken here."""


class FileError(AttribkitError, OSError):
    """A file or folder that cannot be read or written."""


class ModelChanged(AttribkitError, RuntimeError):
    """A map would belong to two states of a model, since somebody changed its weights while the map was made."""


class NotSupported(AttribkitError, NotImplementedError):
    """What cannot be done under `torch.compile`, in forward mode, or with this version of torch."""
