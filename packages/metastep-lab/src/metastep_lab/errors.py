"""Errors of commands and runs, whose message is one line for the user."""

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


class RefusedError(ValueError):
    """The request cannot be carried out; nothing has been written. The message is one sentence."""


class BusyError(RefusedError):
    """Another process is running in the directory."""


class RunDirectoryError(ValueError):
    """A run directory that cannot be read; the message is one sentence that names the file."""


class RunFailedError(RuntimeError):
    """The experiment raised an exception, which is this one's cause; the run directory says so."""
