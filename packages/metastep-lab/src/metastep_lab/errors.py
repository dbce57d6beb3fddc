"""What a command refuses, and how a run fails: errors whose message is one line for the user."""

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


class RefusedError(ValueError):
    """What was asked for cannot be done; nothing has been written. The message is one sentence."""


class BusyError(RefusedError):
    """Another process is running in the directory."""


class RunDirectoryError(ValueError):
    """A run directory that cannot be read; the message is one sentence that names the file."""


class RunFailedError(RuntimeError):
    """The experiment raised an exception, which is this one's cause; the run directory says so."""
