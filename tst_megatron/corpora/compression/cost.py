"""What the byte model behind a run's text took: it was trained for the run's sake, so it counts.

The one idea: a corpus's manifest names its tokenizer's folder, and a compressor's record there says
what its byte model took. Of a corpus in two forms that is the compressed form's manifest, and it
counts where a run reads that form. Nothing of the model itself is read.
"""

import argparse
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.compression.folder import RECORD_FILE
from tst_megatron.corpora.forms import AS_INDEXED, compressed_prefix
from tst_megatron.corpora.manifest import read_manifest
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.corpora.tokenizers.proxy_folder import FORM, INNER

# Where a compressor's record lies in the folder of a tokenizer, by the tokenizer's kind.
_WITHIN = {"compressor": Path(RECORD_FILE), "proxy": Path(FORM, INNER, RECORD_FILE)}


@dataclass(frozen=True)
class ByteModelCost:
    """What a byte model that was trained took; counting bytes takes no floating-point operations.

    Attributes:
        record: the file that tells it.
        flops: above 0.
        gpu_hours: None where they are not known.
        parameters: of it.
    """

    record: Path
    flops: float
    gpu_hours: float | None
    parameters: int


def cost_of_byte_model(
    args: argparse.Namespace, forms: Collection[str] = ()
) -> ByteModelCost | None:
    """Of the compressor that a run's corpora were indexed with, or that its flags name.

    Args:
        args: Megatron's data flags, ``tokenizer_model`` and ``blend``.
        forms: that the run reads its text in; none where it reads it as it is indexed.

    Returns:
        None where there is no compressor, or none with a byte model that was trained.

    Raises:
        UserError: a flag or a manifest cannot be understood.
    """
    if args.mock_data or args.sft:
        return None
    reads_compressed = any(form != AS_INDEXED for form in forms)
    for prefix in all_prefixes(args):
        if is_remote(prefix):
            continue
        manifest = read_manifest(compressed_prefix(prefix) if reads_compressed else prefix)
        if manifest is not None and manifest.tokenizer.kind in _WITHIN:
            folder = Path(prefix).parent / (manifest.tokenizer.folder or "")
            # A run has one tokenizer, so the first will do.
            return _cost(folder / _WITHIN[manifest.tokenizer.kind])
    if args.tokenizer_model is None:
        return None
    kind = "proxy" if reads_compressed else "compressor"
    return _cost(Path(args.tokenizer_model) / _WITHIN[kind])


def _cost(record: Path) -> ByteModelCost | None:
    try:
        model = json.loads(record.read_bytes())["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # Whatever reads the tokenizer says what is wrong with it.
    if not model or not model["flops"]:
        return None
    return ByteModelCost(record, model["flops"], model.get("gpu_hours"), model["parameters"])
