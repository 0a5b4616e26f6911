"""Files that are there whole or not at all."""

import os


def replace(path, write):
    """Puts a file in its place once it is whole and on the disk; a kill leaves the old one or none.

    So does an error, such as that of a full disk, which it raises.

    Args:
        path: `pathlib.Path` of the file, in a folder that exists.
        write: function of a file, open for bytes, that writes its content.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception:
        partial.unlink(missing_ok=True)  # a full disk needs the room
        raise
