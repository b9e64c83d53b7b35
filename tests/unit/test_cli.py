import importlib
import subprocess
import sys
import time

import pytest

from tst_megatron import cli


def shown(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tst_megatron", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_every_command_has_examples_flags_and_a_main() -> None:
    for command in cli.COMMANDS:
        module = importlib.import_module(command.module)
        assert module.EXAMPLES, command.words
        assert callable(module.add_arguments)
        assert callable(module.main)


def test_help_lists_every_command_at_once() -> None:
    started = time.monotonic()
    listed = shown("--help")
    assert time.monotonic() - started < 2
    for command in cli.COMMANDS:
        assert f"\n    {command.words[0]}" in listed
    code = "import sys, tst_megatron.cli; print({'torch', 'yaml', 'rich'} & {*sys.modules})"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert imported.stdout.strip() == "set()"


def test_help_of_a_group_lists_its_jobs() -> None:
    for group in ("index", "tokenizer"):
        listed = shown(group, "--help")
        jobs = [one for one in cli.COMMANDS if one.words[0] == group]
        assert all(f"    {job.words[1]}" in listed for job in jobs)


@pytest.mark.parametrize("words", [("pretrain",), ("pretrain", "--help")])
def test_help_of_pretrain_has_flags_of_any_run_and_of_every_method(words) -> None:
    listed = shown(*words)
    for flag in ("--recipe", "--blend", "--allow-repeats", "--ledger", "--tst-bag-size"):
        assert f"\n  {flag} " in listed or f"\n  {flag}\n" in listed
    assert "--num-layers" not in listed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "required: COMMAND"),
        (("nope",), "invalid choice: 'nope'"),
        (("index",), "required: JOB"),
        (("index", "nope"), "invalid choice: 'nope'"),
        (("recipe", "list", "more"), "unrecognized arguments: more"),
        (("compare", "--no-such"), "required: baseline, --with"),
        (("index", "verify", "x", "--no-such"), "unrecognized arguments: --no-such"),
    ],
)
def test_a_wrong_command_line_is_refused(words, says: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tst-megatron", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
