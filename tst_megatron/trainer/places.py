"""Paths with a scheme, as ``gs://bucket/run``: who can read or write there, and what is refused.

The one idea: Python takes what it does not know for the name of a folder, so that a run would keep
its files in a folder ``gs:`` of the machine that it ran on.
"""

import argparse
import re

from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError

# Megatron and W&B write to them as to folders, whatever their names.
_OF_THIS_MACHINE = (
    "wandb_save_dir",
    "data_cache_path",
    "object_storage_cache_path",
    "non_persistent_local_ckpt_dir",
    "ledger",
)
_CHECKPOINTS = (
    "save",
    "load",
    "pretrained_checkpoint",
    "non_persistent_global_ckpt_dir",
    "ckpt_convert_save",
)


def has_scheme(path: str) -> bool:
    """Whether a path begins with a scheme, known or not."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def check_places(args: argparse.Namespace) -> None:
    """Check that what each path's scheme names can be written or read.

    Raises:
        UserError: one cannot, and would be a folder of that name on this machine.
    """
    for name in (*_OF_THIS_MACHINE, *_CHECKPOINTS):
        path = getattr(args, name)
        is_checkpoint = name in _CHECKPOINTS
        if path is None or not has_scheme(path) or (is_checkpoint and is_remote(path)):
            continue
        way = "a folder, or msc:// with --enable-msc" if is_checkpoint else "a folder"
        raise UserError(
            f"--{name.replace('_', '-')} {path} would be a folder of that name on this machine: "
            f"give it {way}"
        )
    if args.tensorboard_dir is not None and has_scheme(args.tensorboard_dir):
        _check_tensorboard(args.tensorboard_dir)
    for prefix in all_prefixes(args):
        if has_scheme(prefix) and not is_remote(prefix):
            raise UserError(
                f"the corpus {prefix} is where Megatron does not read: name one in a folder, in "
                "s3:// or in msc://"
            )


def _check_tensorboard(folder: str) -> None:
    """TensorBoard writes wherever fsspec can, which for most schemes needs a package."""
    try:
        from tensorboard.compat.tensorflow_stub.io import gfile

        gfile.get_filesystem(folder)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"TensorBoard cannot write to --tensorboard-dir {folder}: {error}; name a folder"
        ) from None
