"""The table of Megatron's flags against Megatron's own parser."""

import argparse
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from megatron.training.arguments import add_megatron_arguments
from planned import DENSE, MOE
from trainer import TINY

from tst_megatron import recipes
from tst_megatron.backends import FLAGS
from tst_megatron.methods import registry
from tst_megatron.stock import megatron_flags
from tst_megatron.stock.megatron_flags import (
    TABLE,
    Flags,
    NotKnownError,
    add_megatron_flags,
    is_of_installed_megatron,
    known,
    text_of_table,
)


def parser_of_table() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    return registry.add_arguments(add_megatron_flags(parser))


def megatrons_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    return registry.add_arguments(add_megatron_arguments(parser))


@pytest.fixture(scope="module")
def parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    return parser_of_table(), megatrons_parser()


def test_the_table_is_the_installed_megatrons() -> None:
    """If not: ``python -m tst_megatron.stock.megatron_flags``."""
    assert text_of_table() == TABLE.read_text()
    assert is_of_installed_megatron()


def command_lines() -> Iterator[list[str]]:
    """Of everything that is trained or planned here, and forms that argparse takes."""
    for name in recipes.names():
        yield recipes.flags(recipes.load(name))
    for flags in (TINY, DENSE, MOE):
        yield [*FLAGS, *flags]
    for line in (
        "--lr=1e-3 --min-lr -0.001 --seed -1 --split 1,1,0 --data-path 0.5 a 0.5 b --bf16",
        "--data-path --lr 1 --train-data-path a --valid-data-path b c",
        "--no-rl-partial-rollouts --rl-partial-rollouts --persistent-save-interval 3",
        "--exit-signal SIGIOT --attention-backend flash --moe-layer-freq ([0]+[1]*3)*2",
        "--window-size 4,0 --cuda-graph-scope full attn --no-rope-freq 4 --linear-attention-freq 2",
        "--override-opt_param-scheduler --rampup-batch-size 1 2 3 --cp-comm-type p2p a2a",
        "--tokenizer-model '' --log-interval 007 --lr 1_0 --lr inf",
    ):
        yield shlex.split(line)


def test_it_reads_what_megatron_reads(parsers) -> None:
    table, megatrons = parsers
    for words in command_lines():
        ours, others = table.parse_known_args(words)
        theirs, too = megatrons.parse_known_args(words)
        assert others == too == [], words
        values = vars(known(ours))
        assert values == {name: getattr(theirs, name) for name in values}, words


def examples(action: argparse.Action) -> Iterator[list[str]]:
    """Words for every flag, good and bad ones."""
    number = action.nargs if isinstance(action.nargs, int) else 1
    for name in action.option_strings:
        yield [name]
        yield [f"{name}="]
        for value in (*map(str, action.choices or ()), "2", "-2", "1e-3", "x", "SIGINT", "a b"):
            yield [name, *([value] * number)]
            yield [f"{name}={value}"]


def outcome(parser: argparse.ArgumentParser, words: list[str]) -> tuple[object, list[str]] | None:
    """What is read and what is left, or None where the parser refuses."""
    try:
        return parser.parse_known_args(words)
    except (argparse.ArgumentError, KeyError, AssertionError):
        return None  # Megatron's own types end in the latter two.


def test_it_refuses_nothing_that_megatron_takes(parsers) -> None:
    """Of every single flag; what it takes besides is of types that only Megatron knows."""
    table, megatrons = parsers
    for action in megatrons._actions[1:]:
        own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        own._add_action(action)
        here = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        here._add_action(table._option_string_actions[action.option_strings[0]])
        for words in examples(action):
            theirs, ours = outcome(own, words), outcome(here, words)
            if theirs is not None:
                assert ours is not None, words
                assert ours[1] == theirs[1], words
            elif ours is not None:
                assert "unread" in repr(here._actions[0].type).lower() or action.choices, words


@pytest.mark.parametrize("word", ["--seq-len", "--mirco-batch-size"])
def test_an_abbreviation_is_no_flag_as_in_megatron(parsers, word: str) -> None:
    for parser in parsers:
        assert parser.parse_known_args([word, "1"])[1] == [word, "1"]


def test_what_only_megatron_reads_is_not_known(parsers) -> None:
    words = ["--moe-layer-freq=2", "--lr=1", "--num-layers=4"]
    flags = known(parsers[0].parse_args(words))
    assert (flags.lr, flags.num_layers, flags.window_size) == (1.0, 4, None)
    for name in ("moe_layer_freq", "attention_backend", "inprocess_active_world_size", "rank"):
        # Not as one that is not there.
        with pytest.raises(NotKnownError):
            getattr(flags, name, None)
    assert known(parsers[0].parse_args([])).moe_layer_freq == 1
    assert not hasattr(Flags(), "__deepcopy__")


def test_help_is_megatrons(parsers) -> None:
    for words in (["--help"], ["--lr", "1", "-h", "--lr", "abc"]):
        with pytest.raises(NotKnownError):
            parsers[0].parse_args(words)


@pytest.mark.parametrize(
    "changed", [{"version": "0.0.1"}, {"files": {"training/arguments.py": ""}}]
)
def test_another_megatron_is_asked_itself(
    changed: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "table.json"
    other.write_text(json.dumps(json.loads(TABLE.read_text()) | {"flags": []} | changed))
    monkeypatch.setattr(megatron_flags, "TABLE", other)
    for cached in (megatron_flags._table, is_of_installed_megatron):
        cached.cache_clear()
    try:
        assert not is_of_installed_megatron()
        parser = parser_of_table()
    finally:
        for cached in (megatron_flags._table, is_of_installed_megatron):
            cached.cache_clear()
    assert known(parser.parse_args(["--seq-length=3"])).seq_length == 3
