"""A chain: one training, cut into links at steps that are known before anything starts.

The one idea: links are starts of one run. All have the whole chain's steps and its schedule; each
but the last ends after a step of its own, with a checkpoint, and the next one goes on from that
with other flags. What a link says holds from there on, until a later one says otherwise. Whether
each can go on from the one before is asked of the methods here, by flags alone, in the trainer's
words.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from tst_megatron import recipes
from tst_megatron.chains.file import (
    FLOPS,
    STEPS,
    TOKENS,
    UNTIL,
    Budget,
    ChainFile,
    LinkFile,
    starts,
)
from tst_megatron.corpora.blend import expand_blend
from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import (
    active,
    add_arguments,
    check_flags,
    check_weights,
    methods,
    run_of,
)
from tst_megatron.recipes.keys import check_keys, read_words
from tst_megatron.recipes.recipe import Recipe
from tst_megatron.runs.flag_roles import Role
from tst_megatron.runs.stages import data_tokens
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps
from tst_megatron.stock.megatron_flags import NotKnownError
from tst_megatron.trainer.same_tokenizer import check_flags_tokenizer

LEDGER = "ledger.jsonl"
_DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True)
class Link:
    """A link whose steps are known.

    Attributes:
        file: as it is written.
        number: from 1.
        first: steps before it.
        last: its last step.
        is_last: whether it ends the chain.
        values: flags that hold in it, a recipe's among them, without where it reads and writes.
        flags: those of them that are not the recipe's, as words.
        folder: of its checkpoints; its log and TensorBoard's files lie in it, too.
        words: its command line after ``pretrain``.
        args: flags as they are read.
        run: what its methods make of it.
        rounded: how its budget became steps, where it is not so many exactly.
    """

    file: LinkFile
    number: int
    first: int
    last: int
    is_last: bool
    values: Mapping[str, Any]
    flags: tuple[str, ...]
    folder: Path
    words: tuple[str, ...]
    args: argparse.Namespace = field(repr=False)
    run: Run = field(repr=False)
    rounded: str = ""

    @property
    def name(self) -> str:
        """Of it."""
        return self.file.name

    @property
    def steps(self) -> int:
        """Of it."""
        return self.last - self.first

    @property
    def log(self) -> Path:
        """Of all its starts."""
        return self.folder / "log.txt"

    @property
    def samples(self) -> tuple[int, int]:
        """Of the chain, before it and at its end."""
        batches = BatchSizes.from_args(self.args)
        return batches.samples_of_steps(self.first), batches.samples_of_steps(self.last)

    @property
    def data_tokens(self) -> int | None:
        """That it reads; None where its stages are decided as it goes."""
        if any(part.ends_are_open for part in self.run.parts):
            return None
        before, after = (
            data_tokens(self.run.stages, n, self.args.seq_length) for n in self.samples
        )
        return after - before


@dataclass(frozen=True)
class Chain:
    """Links whose steps are known.

    Attributes:
        file: as it is written.
        out: its folder.
        num_steps: of all links.
        links: in their order.
    """

    file: ChainFile
    out: Path
    num_steps: int
    links: tuple[Link, ...]

    @property
    def ledger(self) -> Path:
        """Of all links."""
        return self.out / LEDGER

    def link(self, name: str) -> Link:
        """By its name, its number, or both, as its folder is called.

        Raises:
            UserError: there is none.
        """
        for link in self.links:
            if name in (link.name, str(link.number), link.folder.name):
                return link
        there = ", ".join(link.name for link in self.links)
        raise UserError(f"--link {name}: {self.file.where()} has the links {there}")


def out_of(file: ChainFile, out: Path | None) -> Path:
    """The chain's folder: ``--out``, else the file's, else one of its name."""
    return (out or (Path(file.out) if file.out else _DEFAULT_ROOT / file.name)).resolve()


def chain_of(file: ChainFile, out: Path) -> Chain:
    """A chain with the steps of all its links.

    Raises:
        UserError: its flags are wrong, its budgets do not fit, or a link cannot go on from the one
            before.
    """
    base = Recipe("", "", {}, None, None, {}, {})
    if file.recipe is not None:
        base = recipes.read(file.recipe)
        check_keys(base)
    try:
        return _Resolved(file, out, base, read_words).chain()
    except NotKnownError:
        # A value that only Megatron reads, such as a layer pattern.
        return _Resolved(file, out, base, _read_with_megatron).chain()


def _read_with_megatron(words: Sequence[str]) -> argparse.Namespace:
    from tst_megatron.backends import prepare_backend

    prepare_backend()
    from megatron.training.arguments import add_megatron_arguments

    parser = add_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    return parser.parse_args(list(words))


@dataclass
class _Resolved:
    """A chain in the making.

    Attributes:
        file: as it is written.
        out: its folder.
        base: the recipe, or one of no flags.
        read: makes arguments of words.
    """

    file: ChainFile
    out: Path
    base: Recipe
    read: Callable[[Sequence[str]], argparse.Namespace]

    def chain(self) -> Chain:
        """Link after link."""
        where = self.file.where()
        shared = self.base.with_values(self.file.flags, where)
        links: list[Link] = []
        for place, written in enumerate(self.file.links):
            shared = shared.with_values(written.flags, self.file.where(written))
            is_last = place == len(self.file.links) - 1
            try:
                links.append(self._link(written, shared, links, is_last))
            except UserError as error:
                sentence = str(error).removeprefix(self.file.where(written) + " ")
                raise UserError(f"{self.file.where(written)} {sentence}") from None
        return Chain(self.file, self.out, links[-1].last, tuple(links))

    def _link(self, written: LinkFile, shared: Recipe, before: list[Link], is_last: bool) -> Link:
        own = self._own_words(shared)
        folder = self.out / "links" / f"{len(before) + 1}-{written.name}"
        first = before[-1].last if before else 0
        load = before[-1].folder if before else folder
        places = [
            f"--save={folder}",
            f"--load={load}",
            f"--tensorboard-dir={folder / 'tensorboard'}",
            f"--ledger={self.out / LEDGER}",
        ]
        if before:
            places += ["--load-once", f"--ckpt-step={first}"]
        if written.own_schedule:
            places.append("--override-opt_param-scheduler")
        words = (*(["--recipe", self.file.recipe] if self.file.recipe else []), *own, *places)
        args = self.read(expand_blend(recipes.expand_recipe([*words])))
        check_flags(args)
        run = run_of(args)
        if before:
            _check_goes_on(before[-1], args, run)
        steps = train_steps(args)
        last, rounded = self._end(written.budget, first, steps, args, run, words)
        _check_end(written, first, last, steps, is_last)
        if not is_last:
            words = (*words, f"--exit-after-step={last}")
        if not args.save_interval:
            words = (*words, f"--save-interval={last - first}")
        values = {key: value for key, value in shared.values.items() if value not in (None, False)}
        return Link(
            file=written,
            number=len(before) + 1,
            first=first,
            last=last,
            is_last=is_last,
            values=values,
            flags=tuple(own),
            folder=folder,
            words=words,
            args=args,
            run=run,
            rounded=rounded,
        )

    def _own_words(self, shared: Recipe) -> list[str]:
        """Those flags that hold and are not the recipe's."""
        values: dict[str, Any] = {}
        for key, given in shared.settings.items():
            if len(given) == len(self.base.settings.get(key, ())):
                continue
            if given[-1].is_given:
                values[key] = given[-1].value
            elif given[-1].value is False and self.base.values.get(key) not in (None, False):
                raise UserError(
                    f"leaves out {key}, which the recipe {self.file.recipe} has: give one that "
                    "extends it and leaves that out"
                )
        return recipes.flags(values)

    def _end(
        self,
        budget: Budget | None,
        first: int,
        steps: int,
        args: argparse.Namespace,
        run: Run,
        words: Sequence[str],
    ) -> tuple[int, str]:
        """The last step of a budget, and how it was rounded."""
        if budget is None:
            return steps, ""
        if budget.kind == STEPS:
            return first + int(budget.amount), ""
        if budget.kind == UNTIL:
            exact = budget.amount * steps
            end = round(exact)
            told = "" if end == exact else f"{budget.written} of {steps:,} steps is {exact:,.2f}"
            return end, told
        count, unit = self._counted(budget.kind, args, run, words)
        samples = BatchSizes.from_args(args).samples_of_steps
        start = count(samples(first))

        def reached(step: int) -> float:
            return count(samples(step)) - start

        end = _nearest(reached, budget.amount, first, steps)
        counted = reached(end)
        told = f"{budget} is {counted:,.6g} {unit} in whole steps"
        told = "" if counted == budget.amount else told
        return end, told

    def _counted(
        self, kind: str, args: argparse.Namespace, run: Run, words: Sequence[str]
    ) -> tuple[Callable[[int], float], str]:
        """What the first samples of the run come to, and its unit."""
        if any(part.ends_are_open for part in run.parts):
            raise UserError(
                f"has a budget in {kind}, and where its stages end is decided as it runs, so that "
                "its steps are not known before: give steps"
            )
        if kind == TOKENS:
            return partial(_tokens_of, run, args.seq_length), "tokens"
        assert kind == FLOPS, "until and steps are no counts"
        from tst_megatron.chains.planned import flops_of_samples

        return flops_of_samples(words), "FLOPs"


def _check_end(written: LinkFile, first: int, last: int, steps: int, is_last: bool) -> None:
    if last <= first:
        raise UserError(
            f"would end after step {last:,}, and the links before it are {first:,} steps: give "
            "it more, or the chain more steps"
        )
    if last > steps or (last == steps and not is_last):
        rest = "" if is_last else " and leave some for the links after it"
        raise UserError(
            f"would end after step {last:,} of the chain's {steps:,}: make it shorter{rest}"
        )
    if is_last and last < steps:
        raise UserError(
            f"ends after step {last:,} of the chain's {steps:,}, and is the last: leave its "
            f"{written.budget.kind if written.budget else 'length'} out, or add a link"
        )


def _tokens_of(run: Run, seq_length: int, samples: int) -> float:
    return data_tokens(run.stages, samples, seq_length)


def _nearest(reached: Callable[[int], float], amount: Decimal, first: int, steps: int) -> int:
    """The step nearest to an amount; one past the chain's end says that it does not fit."""
    wanted = float(amount)
    low, high = first, steps + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= wanted else (middle + 1, high)
    if low > first and wanted - reached(low - 1) <= reached(low) - wanted:
        low -= 1
    return low


def _check_goes_on(before: Link, args: argparse.Namespace, run: Run) -> None:
    """Ask a link's methods whether it can go on from the last checkpoint of the link before.

    As `tst_megatron.trainer.memory.check_resume` asks it of a checkpoint.

    Raises:
        UserError: it cannot.
    """
    told = {
        **vars(before.args),
        "consumed_train_samples": before.samples[1],
        "methods": {
            part.name: {
                "facts": json.loads(json.dumps(part.saved())),
                "has_weights": part.has_weights,
            }
            for part in before.run.parts
        },
    }
    # Of the same class, which knows what it does not know.
    saved = type(before.args)(**told)
    parts = {part.name: part for part in run.parts}
    remembered = {method.name: method.remembered(saved) for method in methods()}
    may_differ = {
        name
        for part in run.parts
        for name in part.other_model(saved, remembered[part.name], before.last)
    }
    check_weights(args, saved, run, before.last if may_differ else None)
    for name in Role.MODEL.value:
        one, other = (getattr(of, name, None) for of in (saved, args))
        if one != other and name not in may_differ:
            raise UserError(
                f"has {name.replace('_', '-')} {other}, and link {before.name} before it {one}: "
                f"a model goes on as it is, unless a link has start: {' or '.join(starts())}"
            )
    check_flags_tokenizer(before.args, args, f"goes on from link {before.name}, which is trained")
    for part in parts.values():
        part.resume(args, remembered[part.name], before.last)
    gone = {method.name for method in active(before.args)} - parts.keys()
    if gone and not args.allow_schedule_change:
        raise UserError(
            f"leaves out what link {before.name} has of {' and '.join(sorted(gone))}, by which its "
            "text or its stages are told: let it hold, as a phase ends by itself"
        )
