"""Writing files so that none is ever half-written: a temporary name, then one rename."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a mixture.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the name
    `path` by one rename. A process killed at any moment leaves at worst a `.tmp` file behind.

    Args:
        path: where the content goes; parent folders are made.
        content: the whole file.

    Raises:
        OSError: if the folder cannot be made or written to. Nothing has changed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
    ) as temporary:
        try:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
            os.chmod(temporary.name, 0o644)
            os.replace(temporary.name, path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise
