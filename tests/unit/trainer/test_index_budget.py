"""``tst-megatron index budget``: what it says, with which exit code, and what it never imports."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from counted_corpora import parse, write_corpus
from megatron.training.arguments import add_megatron_arguments

from tst_megatron.corpora.budget import Budget, times
from tst_megatron.corpora.index_file import write_index
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import add_arguments as add_own_arguments
from tst_megatron.trainer.commands.index_budget import add_arguments, main
from tst_megatron.trainer.reading import reading_from_args

USUAL = ("--seq-length=16", "--global-batch-size=4", "--train-iters=100", "--eval-iters=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("corpora")
    for name, count in (("web", 2000), ("code", 600)):
        lengths = np.random.default_rng(3).integers(1, 60, size=count).astype(np.int32)
        np.zeros(lengths.sum(), dtype=np.uint16).tofile(f"{made / name}.bin")
        with (made / f"{name}.idx").open("wb") as file:
            write_index(file.write, np.dtype(np.uint16), count, lambda found=lengths: [found])
    (made / "blend.yaml").write_text(
        "sources:\n- {path: web, weight: 0.7}\n- {path: code, weight: 0.3, epochs: 4}\n"
    )
    return made


def as_json(capsys, *flags: str) -> tuple[int, dict]:
    code = main([*USUAL, *flags, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_whole_command_line_of_pretrain_is_taken(folder: Path, capsys) -> None:
    code, said = as_json(
        capsys,
        *("--num-layers", "8", "--swiglu", "--lr=1e-3", "--bf16", "--iterations-to-skip", "1"),
        *("2", "300", f"--data-path={folder}/web", "--tst-bag-size", "4", "--tst-objective=mce"),
        *("--ledger", "ledger.jsonl", "--min-lr", "-1", "--save", "runs/checkpoints"),
    )
    assert code == 0
    assert [stage["bag_size"] for stage in said["stages"]] == [4, 1]
    assert [stage["samples"] for stage in said["stages"]] == [120, 280]
    assert said["problems"] == []


def test_it_says_what_pretrain_checks(folder: Path, capsys) -> None:
    flags = (f"--blend={folder}/blend.yaml", "--tst-schedule=4:0.2,2:0.1,4:0.1", "--split=9,1")
    _, said = as_json(capsys, *flags)
    checked = Budget(reading_from_args(parse(*USUAL, *flags)))
    shown = [line for stage in said["stages"] for line in stage["sources"]]
    for line, stage in zip(shown, checked.stages, strict=True):
        assert (line["path"], line["max_epochs"]) == (stage.source.prefix, stage.source.max_epochs)
        for name in ("samples", "needed", "available", "documents", "epochs", "is_met"):
            assert line[name] == getattr(stage, name)
    sizes = [stage["bag_size"] for stage in said["stages"] for _ in stage["sources"]]
    assert sizes == [stage.part.tokens_a_position for stage in checked.stages]
    assert said["steps_that_fit"] == checked.steps_that_fit()
    assert said["available"] == sum(line.available for line in checked.stages)


def test_the_table_reads_in_a_log_file(folder: Path, capsys) -> None:
    flags = [*USUAL, f"--blend={folder}/blend.yaml", "--tst-schedule=4:0.2,2:0.1,4:0.1"]
    assert main(flags) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    for words in ("bags of 4 (stages 1, 3)", "bags of 2", "ordinary", "run", "0.5 % more"):
        assert words in shown
    (line,) = (line for line in shown.splitlines() if "bags of 2" in line)
    assert line.split()[3] == f"{folder}/web"
    assert line.split()[-1] == "there"


def test_repeats_are_told_and_end_with_code_1(folder: Path, capsys) -> None:
    flags = (f"--data-path={folder}/web", "--tst-bag-size=4", "--train-iters=4000", "--split=1,0,0")
    code, said = as_json(capsys, *flags)
    assert code == 1
    assert said["repeats"]
    (problem,) = said["problems"]
    fitting = said["steps_that_fit"]
    assert f"{fitting:,} of 4,000 steps fit" in problem
    assert as_json(capsys, *flags, f"--train-iters={fitting}")[0] == 0
    assert as_json(capsys, *flags, f"--train-iters={fitting + 1}")[0] == 1
    assert main([*USUAL, *flags]) == 1
    shown = capsys.readouterr().out
    assert "repeats" in shown
    assert f"Not enough: {problem}." in shown
    # Allowed, it still says how often.
    assert main([*USUAL, *flags, "--allow-repeats"]) == 0
    shown = capsys.readouterr().out
    assert "as --allow-repeats allows" in shown
    assert times(said["stages"][0]["sources"][0]["epochs"]) in shown


def test_a_validation_split_without_text_is_told(folder: Path, capsys) -> None:
    flags = (f"--data-path={folder}/web", "--tst-bag-size=4", "--split=1,0,0")
    code, said = as_json(capsys, *flags, "--eval-iters=3")
    assert code == 1
    assert "the validation split" in said["problems"][0]


def test_a_test_split_without_text_is_told(tmp_path: Path, capsys) -> None:
    """Of 20 documents the split of the docs leaves none, and Megatron would count for ever."""
    write_corpus(tmp_path / "few", [50] * 20)
    flags = (f"--data-path={tmp_path}/few", "--train-iters=1", "--split=949,50,1")
    assert main([*USUAL, *flags]) == 0, "no validation reads no test"
    capsys.readouterr()
    code, told = as_json(capsys, *flags, "--eval-iters=1")
    assert code == 1
    assert f"the test split of {tmp_path}/few has 0 tokens" in told["problems"][0]


def test_mock_data_are_enough(capsys) -> None:
    assert main([*USUAL, "--mock-data", "--tst-bag-size=4"]) == 0
    assert "enough of them for any run" in capsys.readouterr().out
    assert as_json(capsys, "--mock-data") == (0, {"mock_data": True, "problems": []})


def test_an_ordinary_run_has_one_stage(folder: Path, capsys) -> None:
    code, said = as_json(capsys, f"--data-path={folder}/web")
    assert code == 0
    (stage,) = said["stages"]
    assert (stage["name"], stage["tokens_a_position"]) == ("ordinary", 1)
    assert said["data_tokens"] == 100 * 4 * 16


def test_a_schedule_of_batch_sizes_is_counted(folder: Path, capsys) -> None:
    flags = ["--seq-length=16", "--eval-iters=0", f"--data-path={folder}/web", "--tst-bag-size=4"]
    ramp = ["--step-batch-size-schedule", "0:2 160:4"]
    assert main([*flags, *ramp, "--train-iters=100", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # 10 samples in steps of 2, the rest in steps of 4.
    assert [stage["samples"] for stage in said["stages"]] == [10 + 25 * 4, 70 * 4]
    assert main([*flags, *ramp, "--train-samples=390", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--tst-bag-sise=4 --data-path {folder}/web", "did you mean --tst-bag-size?"),
        ("--tst-bag-size=0 --data-path {folder}/web", "bag size 0 is below 1"),
        ("--tst-bag-size=4", "there is no training data"),
        ("--data-path {folder}/gone", "gone is missing"),
        ("--data-path {folder}/web {folder}/web", "is named 2 times"),
        ("--recipe=nope", "no recipe 'nope'"),
        ("--data-path {folder}/web --train-iters=0", "add --train-iters or --train-samples"),
        ("--data-path {folder}/web --seq-length=0", "add --seq-length"),
        ("--data-path {folder}/web --step-batch-size-schedule=0:4", "two forms of one thing"),
        ("--blend {folder}/blend.yaml --data-path a", "two forms of one thing"),
        ("--data-path {folder}/web --allow-repeat", "did you mean --allow-repeats"),
        ("--bled={folder}/blend.yaml", "did you mean --blend"),
        ("--data-path {folder}/web --split=90,,10", "--split '90,,10' is not three shares"),
        ("--data-path {folder}/web --mid-level-dataset-surplus=nan", "surplus nan is no share"),
        ("--data-path {folder}/web --mid-level-dataset-surplus=-1", "surplus -1 is no share"),
        ("--data-path {folder}/web --seed=-1", "--seed -1 is no seed"),
        ("--data-path {folder}/web --seed=4294967296", "is no seed: give one from 1 to 4,294,967"),
        ("--data-path {folder}/web --train-iters=-5", "--train-iters -5 is below 0"),
        ("--data-path {folder}/web --mock-data", "--data-path and --mock-data are two forms"),
        ("--data-path {folder}/web --train-itres 100", "did you mean --train-iters?"),
        ("--data-path {folder}/web --lr abc", "argument --lr: invalid float value"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, flags: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        main([*USUAL, *flags.replace("{folder}", str(folder)).split()])
    assert "\n" not in str(refused.value)


def test_every_flag_of_ours_and_every_default_is_known() -> None:
    ours = argparse.ArgumentParser()
    add_arguments(ours)
    theirs = add_own_arguments(add_megatron_arguments(argparse.ArgumentParser()))
    added = add_own_arguments(argparse.ArgumentParser())._option_string_actions
    assert added.keys() <= ours._option_string_actions.keys()
    for flag, action in ours._option_string_actions.items():
        if flag not in ("--json", "--recipe", "-h", "--help"):
            same = theirs._option_string_actions[flag]
            assert (action.dest, action.default, action.nargs) == (
                same.dest,
                same.default,
                same.nargs,
            )


def test_neither_megatron_nor_torch_is_imported(folder: Path) -> None:
    program = (
        "import sys; from tst_megatron.trainer.commands.index_budget import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'torch', 'megatron'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    line = [f"--blend={folder}/blend.yaml", "--tst-bag-size=4", "--recipe=tiny"]
    done = subprocess.run([sys.executable, "-c", program, *USUAL, *line], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
