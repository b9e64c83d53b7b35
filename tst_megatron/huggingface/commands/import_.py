"""``tst-megatron import``: a Hugging Face folder as a checkpoint that runs start from."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tst_megatron import strict_yaml
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.corpora.tokenizers.description import TokenizerDescription
    from tst_megatron.huggingface.importing import Folder, Target

EXAMPLES = """\
examples:
  tst-megatron import SmolLM3-3B --output start
  tst-megatron import Qwen3-30B-A3B --output start --tensor-model-parallel-size 8
  torchrun ... -m tst_megatron pretrain --recipe start/recipe.yaml --load start --save runs/mine ...

Any layout loads it, stock Megatron too; the first such run starts at step 0 with a new optimizer.
"""
RECIPE = "recipe.yaml"
TOKENIZER = "tokenizer"
SENTENCEPIECE = "tokenizer.model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "model", type=Path, metavar="FOLDER", help="of config.json, safetensors and a tokenizer"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="a new one, to --load"
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="of the weights (default: the folder's)",
    )
    group = parser.add_argument_group(
        "layout", "of the runs that will load it, as Megatron pads the vocabulary for it"
    )
    group.add_argument("--make-vocab-size-divisible-by", type=int, default=128, metavar="N")
    group.add_argument("--tensor-model-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument(
        "--no-tokenizer", action="store_true", help="leave the folder's tokenizer out"
    )


def main(args: argparse.Namespace) -> None:
    """Import, and say how a run starts from it.

    Raises:
        UserError: the folder is not whole or of no known family, or the output cannot be written.
    """
    from tst_megatron.checkpoints.derived import check_is_free, write
    from tst_megatron.corpora.byte_progress import ByteProgress
    from tst_megatron.huggingface.importing import Folder, plan_of, recipe_of

    for name in ("make_vocab_size_divisible_by", "tensor_model_parallel_size"):
        if getattr(args, name) < 1:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(args, name)} is no size: give 1 or more"
            )
    check_is_free(args.output)
    if not args.model.is_dir():
        raise UserError(f"there is no folder {args.model}: name a downloaded model's")
    folder = Folder(args.model)
    folder.check()
    target = _target(args, folder)
    plan = plan_of(folder, target)
    recipe = recipe_of(folder, target)
    with ByteProgress(Console(stderr=True), "written", plan.new_bytes) as progress:
        written = write(
            plan, args.output, progress.update, lambda out: _beside(out, args, folder, recipe)
        )
    rows = target.rows - folder.shape.vocab_size
    padding = f", {rows:,} rows of padding" if rows else ""
    print(
        f"{args.output}: {folder.family.title}, {written.new:,} bytes{padding}; start a run with "
        f"--recipe {args.output / RECIPE} --load {args.output} and a --save folder of its own"
    )


def _target(args: argparse.Namespace, folder: "Folder") -> "Target":
    """What the model will be in Megatron.

    Raises:
        UserError: its tokenizer cannot be read, or has more tokens than the model has rows.
    """
    import torch

    from tst_megatron.huggingface.importing import Target, padded

    divisor = args.make_vocab_size_divisible_by * args.tensor_model_parallel_size
    rows = padded(folder.shape.vocab_size, divisor)
    dtype = folder.dtype if args.dtype is None else getattr(torch, args.dtype)
    if args.no_tokenizer:
        return Target(rows, dtype, {})
    described = _tokenizer(args.model)
    if described.vocab_size > folder.shape.vocab_size:
        raise UserError(
            f"the tokenizer in {args.model} has {described.vocab_size:,} tokens and the model has "
            f"rows for {folder.shape.vocab_size:,}: it is another model's"
        )
    words = [word.format(folder=args.output / TOKENIZER) for word in described.megatron_flags]
    flags = {
        name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }
    # A model may have rows beyond its tokenizer's, which were never trained; they stay.
    return Target(rows, dtype, flags, folder.shape.vocab_size, described.sha256)


def _tokenizer(model: Path) -> "TokenizerDescription":
    """The model's tokenizer: of one that was exported here that of its corpora, which may be of
    another library's form.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from tst_megatron.corpora.tokenizers.description import describe
    from tst_megatron.huggingface.folder import read_facts

    own = model / SENTENCEPIECE
    sha256 = read_facts(model).get("tokenizer_sha256")
    if sha256 is not None and own.is_file():
        described = describe(str(own))
        if described.sha256 == sha256:
            return described
    if not (model / "tokenizer.json").is_file():
        raise UserError(
            f"{model} has no tokenizer.json: put the model's there, or leave it out with "
            "--no-tokenizer"
        )
    return describe(str(model))


def _beside(
    out: Path, args: argparse.Namespace, folder: "Folder", recipe: Mapping[str, Any]
) -> None:
    """The recipe, and the tokenizer's files."""
    from tst_megatron.files import sync_folder, write_whole
    from tst_megatron.huggingface.importing import tokenizer_files_in

    about = f"goes on from {args.model.name}, a {folder.family.title}"
    text = strict_yaml.written({"about": about, **recipe})
    write_whole(out / RECIPE, text)
    if args.no_tokenizer:
        return
    described = _tokenizer(args.model)
    described.copy_to(out / TOKENIZER)
    if described.kind == "huggingface":
        # A chat template, and what else belongs to it.
        for path in tokenizer_files_in(args.model):
            if path.name not in described.files:
                write_whole(out / TOKENIZER / path.name, path.read_bytes())
    sync_folder(out / TOKENIZER)
