"""Data as it lies on a disk: a folder or an archive, with a file that no reader asks for."""

import io
import tarfile

IGNORED = {"readme.html": b"ignored"}


def write_folder(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, content in {**IGNORED, **contents}.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path, folder, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**IGNORED, **contents}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
