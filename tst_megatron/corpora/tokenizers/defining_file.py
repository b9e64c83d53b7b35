"""The one file that says what a tokenizer is, and that manifests and checkpoints know it by."""

from pathlib import Path

from tst_megatron.corpora.blend import is_remote

HUGGING_FACE_FILE = "tokenizer.json"


def defining_file(model: str) -> Path | None:
    """The file that a manifest would have the hash of; None where there is none here.

    Args:
        model: as ``--tokenizer-model`` has it: Megatron also takes the name of a tokenizer on a
            hub, which is looked for where it was downloaded.
    """
    path = Path(model)
    file = path / HUGGING_FACE_FILE if path.is_dir() else path
    if file.is_file():
        return file
    if path.exists() or is_remote(model):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, HUGGING_FACE_FILE)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
