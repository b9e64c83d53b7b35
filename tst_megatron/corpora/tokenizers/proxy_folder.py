"""How a proxy's folder is known, without what it takes to read it."""

from pathlib import Path

RECORD_FILE = "proxy.json"
FORM = "compressed"
"""The folder in it that names the compressed form."""
INNER = "tokenizer"
"""The folder in that, of the tokenizer that compresses."""


def is_compressed_form(folder: Path) -> bool:
    """Whether a folder is the compressed form of a proxy."""
    return (folder / RECORD_FILE).is_file()


def compressed_form(spec: str) -> str | None:
    """What names the compressed form beside a proxy's bytes; None of any other tokenizer."""
    folder = Path(spec) / FORM
    return str(folder) if is_compressed_form(folder) else None
