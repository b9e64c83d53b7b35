"""``tst-megatron generate``: text that a trained model goes on with from prompts."""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.errors import UserError
from tst_megatron.files import replace_when_whole

if TYPE_CHECKING:
    from tst_megatron.huggingface.generating import Continuation, Prompt, Row, Sampling

EXAMPLES = """\
examples:
  tst-megatron generate my-model --prompt 'Once upon a time' --stream
  tst-megatron generate runs/tst/checkpoints --step 20000 --prompt 'def main' --max-new-tokens 200
  tst-megatron generate my-model --prompts prompts.jsonl --out texts.jsonl --temperature 0.8 \\
      --top-p 0.95 --num-samples 4 --seed 7 --batch-size 32

MODEL is a folder with a config.json, or a run's folder of checkpoints, which is exported to a
temporary folder first. Without --temperature the likeliest token follows each time. A prompt and a
seed make the same text in any batch, unless rounding decides a near tie (in bfloat16, say). A model
without a tokenizer takes ids: --prompt '1 2 3'.
"""
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_DEFAULT_LENGTH = 128
_DEFAULT_BATCH = 8
_LARGEST_SEED = 2**63
# Of text that a terminal is shown; it takes them for orders.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a model's folder, or a run's of checkpoints"
    )
    parser.add_argument("--step", type=int, metavar="N", help="of a run; default: its last")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--prompt", action="append", metavar="TEXT", help="what to go on from; may be repeated"
    )
    asked.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='a .txt with a prompt on each line that is not blank, or a .jsonl with "prompt", a '
        "text or a list of ids",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.jsonl",
        help="write prompt, text, ids, finish_reason and seed there, and print nothing",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=_DEFAULT_LENGTH,
        metavar="N",
        help=f"the most that a text becomes longer ({_DEFAULT_LENGTH}), if the model has room",
    )
    _add_sampling(parser)
    parser.add_argument("--stream", action="store_true", help="print words as they come")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help=f"prompts at once ({_DEFAULT_BATCH}); changes speed, and rounding",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", help="default: the model's own")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="draw from the probabilities, sharper below 1 and flatter above; at 0, the default, "
        "the likeliest token follows",
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest that have this share"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (0)")
    parser.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="texts of each prompt (1)"
    )


def main(args: argparse.Namespace) -> None:
    """Continue the prompts.

    Raises:
        UserError: a flag, the model or a prompt is wrong.
    """
    _check(args)
    prompts = args.prompt if args.prompts is None else _read_prompts(args.prompts)
    from tst_megatron.huggingface.folder import load_model, model_folder

    with model_folder(args.model, args.step) as folder:
        from tst_megatron.huggingface import generating

        device = generating.device_named(args.device)
        speech = generating.read_speech(folder)
        sampling = _sampling(args)
        rows = generating.rows_of(speech, prompts, sampling)
        model = load_model(folder, args.dtype, device)
        shown = _Shown(rows) if args.out is None else None
        texts = generating.continuations(
            model,
            speech,
            rows,
            sampling,
            1 if args.stream else args.batch_size or _DEFAULT_BATCH,
            shown.piece if shown is not None and args.stream else None,
        )
        if shown is None:
            _write(args.out, texts)
            return
        for text in texts:
            shown.end(text, is_shown=args.stream)


def _check(args: argparse.Namespace) -> None:
    """Check flags by themselves and beside each other, before anything is read."""
    for flag, value, least in (
        ("--max-new-tokens", args.max_new_tokens, 1),
        ("--num-samples", args.num_samples, 1),
        ("--batch-size", args.batch_size, 1),
        ("--top-k", args.top_k, 1),
        ("--seed", args.seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{flag} {value} is below {least}: give it {least} or more")
    if args.seed + args.num_samples > _LARGEST_SEED:
        raise UserError(f"--seed {args.seed} is too large: give it one below 2^63")
    if not (math.isfinite(args.temperature) and args.temperature >= 0):
        raise UserError(f"--temperature {args.temperature:g} is no temperature: give it 0 or more")
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p:g} is no share: give it one above 0 and up to 1")
    _check_together(args)


def _check_together(args: argparse.Namespace) -> None:
    if args.temperature == 0:
        for flag, is_given in (
            ("--top-p", args.top_p is not None),
            ("--top-k", args.top_k is not None),
            ("--num-samples", args.num_samples > 1),
        ):
            if is_given:
                raise UserError(
                    f"{flag} is for drawing, and at temperature 0 the likeliest token always "
                    "follows: give a --temperature, for example 0.8"
                )
    if args.stream and args.batch_size not in (None, 1):
        raise UserError(
            f"--stream shows one text at a time, and --batch-size is {args.batch_size}: leave one "
            "of them out"
        )
    if args.out is not None:
        _check_out(args.out, args.stream)


def _check_out(out: Path, stream: bool) -> None:
    if stream:
        raise UserError(
            "--stream prints texts and --out writes them instead: leave one of them out"
        )
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out} is a file of JSON lines: let its name end with .jsonl")
    if out.exists():
        raise UserError(f"--out {out} is there already: name another file, or move it away")
    if not out.parent.is_dir():
        raise UserError(f"--out {out} is in no folder that is there: make {out.parent} first")


def _read_prompts(file: Path) -> "list[Prompt]":
    if file.suffix not in (".txt", ".jsonl"):
        raise UserError(
            f"--prompts {file} is neither a .txt with a prompt a line nor a .jsonl: name one of "
            "these"
        )
    try:
        lines = file.read_bytes().decode().split("\n")
    except OSError as error:
        raise UserError(f"--prompts {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts {file} is not UTF-8 text, at byte {error.start + 1}") from None
    numbered = [(i, line.removesuffix("\r")) for i, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"--prompts {file} has no prompt: write one a line")
    if file.suffix == ".txt":
        return [line for _, line in numbered]
    return [_prompt_of(file, number, line) for number, line in numbered]


def _prompt_of(file: Path, number: int, line: str) -> "Prompt":
    try:
        record = json.loads(line)
    except ValueError:
        raise UserError(f"line {number} of {file} is not JSON") from None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if isinstance(prompt, str) or (
        isinstance(prompt, list) and all(type(one) is int for one in prompt)
    ):
        return prompt
    raise UserError(
        f'line {number} of {file} has no "prompt" that is a text or a list of ids: write '
        '{"prompt": "..."}'
    )


def _sampling(args: argparse.Namespace) -> "Sampling":
    from tst_megatron.huggingface.generating import Sampling

    return Sampling(
        args.max_new_tokens,
        args.temperature,
        args.top_p,
        args.top_k,
        args.seed,
        args.num_samples,
    )


def _write(out: Path, texts: "Iterable[Continuation]") -> None:
    with replace_when_whole(out) as file:
        for text in texts:
            file.write((json.dumps(asdict(text), ensure_ascii=False) + "\n").encode())
    print(f"tst-megatron: the texts are in {out}", file=sys.stderr)


class _Shown:
    """Texts on standard output, each behind its prompt; of several, a line before says which."""

    def __init__(self, rows: "Sequence[Row]") -> None:
        self._rows = rows
        self._done = 0
        self._has_begun = False

    def piece(self, text: str) -> None:
        """Show what has come of a text."""
        if not self._has_begun:
            self._has_begun = True
            row = self._rows[self._done]
            if len(self._rows) > 1:
                print(f"--- {self._done + 1:,} of {len(self._rows):,}, seed {row.seed}")
            self.piece(row.shown)
        print(_CONTROL.sub(_escaped, text), end="", flush=True)

    def end(self, text: "Continuation", is_shown: bool) -> None:
        """Show a text, or no more than its end where its pieces were shown."""
        self.piece("" if is_shown else text.text)
        print(flush=True)
        self._done, self._has_begun = self._done + 1, False


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()
