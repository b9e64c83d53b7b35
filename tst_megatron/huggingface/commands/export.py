"""``tst-megatron export``: a checkpoint as a folder that Hugging Face's libraries load."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.huggingface.export import Model
    from tst_megatron.huggingface.provenance import Compared
    from tst_megatron.huggingface.tokenizer_files import TokenizerFiles

EXAMPLES = """\
examples:
  tst-megatron export runs/tst/checkpoints --output my-model
  tst-megatron export runs/tst --step 20000 --output my-model --dtype bfloat16 --verify
  tst-megatron export runs/stock --output my-model --tokenizer data/corpus.tokenizer

Any layout's checkpoint, without a GPU. The same command goes on from where it was stopped.
"""
_MOST_DOCUMENTS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a run's --save folder, or a step in it"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new one")
    parser.add_argument("--step", type=int, metavar="N", help="default: the tracker's")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="of the weights (default: the checkpoint's)",
    )
    parser.add_argument(
        "--shard-size",
        default="5GB",
        metavar="SIZE",
        help="the largest file of weights, such as 5GB or 500MB (default 5GB)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="a SentencePiece model, a Hugging Face folder or a tiktoken vocabulary (default: what "
        "lies beside the run's corpus, else what the run was given)",
    )
    parser.add_argument(
        "--no-tokenizer", action="store_true", help="leave the tokenizer out: ids in, ids out"
    )
    parser.add_argument(
        "--allow-other-ids",
        action="store_true",
        help="write a tokenizer though it encodes some kinds of text otherwise than the corpus was",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare logits with Megatron's own forward pass, in float32 on this machine's CPU",
    )
    parser.add_argument(
        "--verify-text", type=Path, metavar="FILE", help="on this text (default: on the corpus)"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but warnings")


def main(args: argparse.Namespace) -> int:
    """Export, and say what was written.

    Returns:
        1 where the logits are further apart than they may be; the folder keeps its temporary name.

    Raises:
        UserError: the model has no such form, a file is not what it should be, or the folder cannot
            be written.
    """
    from tst_megatron.checkpoints.derived import check_is_free
    from tst_megatron.checkpoints.saved import Saved
    from tst_megatron.checkpoints.steps import step_folder
    from tst_megatron.huggingface import export
    from tst_megatron.huggingface.provenance import args_here

    _check(args)
    most = export.bytes_of(args.shard_size)
    check_is_free(args.output)
    saved = Saved(step_folder(args.checkpoint, args.step))
    described, files = _tokenizer(args, args_here(saved))
    known = getattr(saved.args, "tokenizer_tokens", None)
    model = export.model_of(saved, known if described is None else described.vocab_size)
    dtype = export.dtype_of(args.dtype, model)
    settings = {
        "checkpoint": export.identity_of(saved),
        "dtype": str(dtype),
        "shard_size": most,
        "vocab_size": model.shape.vocab_size,
        "tokenizer": None if described is None else described.sha256,
    }
    with export.begun(args.output, settings) as partial:
        compared = _write(args, model, dtype, most, partial, files)
        if compared is not None and not compared.is_within:
            print(
                f"error: {compared}, which is more than {compared.bound:.2g}: {partial} is not the "
                "checkpoint's model and keeps that name"
            )
            return 1
        export.name_it(partial, args.output)
    _say(args, model, compared)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.no_tokenizer and args.tokenizer is not None:
        raise UserError("--no-tokenizer beside --tokenizer: leave one of them out")
    if args.verify_text is not None and not args.verify:
        raise UserError("--verify-text without --verify: give both, or neither")
    if args.verify_text is not None and not args.verify_text.is_file():
        raise UserError(f"--verify-text {args.verify_text} is no file: name a text")
    if args.verify_text is not None and args.no_tokenizer:
        raise UserError("--verify-text needs a tokenizer: leave --no-tokenizer out")


def _tokenizer(args: argparse.Namespace, saved: Any) -> tuple[Any, "TokenizerFiles | None"]:
    """The checkpoint's tokenizer, and its files; neither where there is none, which is said.

    Raises:
        UserError: it is another model's, or would encode text otherwise.
    """
    from tst_megatron.huggingface.run_tokenizer import find_tokenizer
    from tst_megatron.huggingface.tokenizer_files import tokenizer_files

    if args.no_tokenizer:
        return None, None
    described = find_tokenizer(saved, args.tokenizer)
    if described is None:
        raise UserError(
            "the run's tokenizer is not here, neither beside its corpus nor where its flags say: "
            "name it with --tokenizer, or leave it out with --no-tokenizer"
        )
    files = tokenizer_files(described)
    if not args.allow_other_ids:
        files.check_equal()
    return described, files


def _write(
    args: argparse.Namespace,
    model: "Model",
    dtype: Any,
    most: int,
    partial: Path,
    files: "TokenizerFiles | None",
) -> "Compared | None":
    """All of the folder but its name."""
    from tst_megatron.corpora.byte_progress import ByteProgress
    from tst_megatron.files import write_whole
    from tst_megatron.huggingface import export, provenance
    from tst_megatron.huggingface.folder import FACTS_FILE
    from tst_megatron.huggingface.safetensors_file import Listed

    shards = export.shards_of(model, dtype, most)
    total = sum(
        Listed(weight.name, weight.shape, dtype).size
        for shard in shards
        for weight in shard.weights
    )
    with ByteProgress(Console(stderr=True, quiet=args.quiet), "written", total) as progress:
        export.write_weights(model, partial, dtype, shards, progress.update)
    ids = {
        f"{name}_token_id": None if files is None else getattr(files.special, name)
        for name in ("bos", "eos", "pad")
    }
    if files is not None:
        files.write_to(partial)
    name = str(dtype).removeprefix("torch.")
    config = model.config(name, ids)
    write_whole(partial / "config.json", json.dumps(config, indent=2) + "\n")
    for file, code in model.code().items():
        write_whole(partial / file, code)
    # Greedy unless asked: what a pre-trained model says by itself is not what it was made for.
    generation = {"do_sample": False, **ids}
    write_whole(partial / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    found = provenance.provenance_of(model.saved)
    if found.warning is not None:
        Console(stderr=True).print(f"warning: {found.warning}", highlight=False, soft_wrap=True)
    compared = _compared(args, model, name, partial) if args.verify else None
    start = None if files is None else files.document_start
    facts = provenance.facts_of(
        found, model.saved, args.output, ids["eos_token_id"], start, compared
    )
    write_whole(partial / FACTS_FILE, provenance.facts_text(facts))
    page = provenance.readme_of(
        f"{args.output.name} ({model.title})",
        found,
        model.saved,
        _notes(model, name, files),
        compared,
    )
    write_whole(partial / "README.md", page)
    return compared


def _notes(model: "Model", dtype: str, files: "TokenizerFiles | None") -> dict[str, str]:
    """What else the model card says."""
    notes = {"weights": dtype, "vocabulary": f"{model.shape.vocab_size:,}"}
    if model.padding:
        notes["vocabulary"] += f"; {model.padding:,} rows of padding were left out"
    if model.has_heads:
        notes["left out"] = "the heads of multi-token prediction, which the family has not"
    if code := model.code():
        notes["code"] = (
            f"{', '.join(code)}: transformers runs it with trust_remote_code=True, and no other "
            "library has such a model"
        )
    if files is None:
        notes["tokenizer"] = "none: ids in, ids out"
    else:
        notes["tokenizer"] = files.documents()
        if files.differences:
            notes["other ids than the corpus"] = "; ".join(map(str, files.differences))
    return notes


def _compared(args: argparse.Namespace, model: "Model", dtype: str, partial: Path) -> "Compared":
    from tst_megatron.huggingface import verify
    from tst_megatron.huggingface.provenance import args_here

    text_ids = None
    if args.verify_text is not None:
        from tst_megatron.huggingface.folder import load_tokenizer

        text = args.verify_text.read_text(errors="replace")
        text_ids = load_tokenizer(partial)(text)["input_ids"]
    shape = model.shape
    ids, text = verify.ids_to_compare(
        args_here(model.saved), shape.vocab_size, shape.max_positions, text_ids
    )
    return verify.compare(model.saved.folder, partial, dtype, ids, text)


def _say(args: argparse.Namespace, model: "Model", compared: "Compared | None") -> None:
    if args.quiet:
        return
    files = list(args.output.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    told = [f"{model.title}, {size:,} bytes of weights in {len(files)} file(s)"]
    if model.padding:
        told.append(f"{model.padding:,} rows of padding left out")
    if model.has_heads:
        told.append("heads of multi-token prediction left out")
    if compared is not None:
        told.append(str(compared))
    print(f"{args.output}: {'; '.join(told)}")
