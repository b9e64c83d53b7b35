"""How a compressor's folder is known, without what it takes to read it."""

from pathlib import Path

RECORD_FILE = "compressor.json"


def is_compressor(folder: Path) -> bool:
    """Whether a folder is one."""
    return (folder / RECORD_FILE).is_file()
