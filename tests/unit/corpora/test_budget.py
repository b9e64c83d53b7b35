"""What fits, what does not, and what would: the budget's own answers."""

from pathlib import Path

import numpy as np
import pytest
from counted_corpora import SCHEDULE, budget_of, parse, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_megatron.corpora.budget import check_budget, check_files, times
from tst_megatron.corpora.index_file import read_index
from tst_megatron.errors import UserError
from tst_megatron.trainer.checks import repeat_free_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(5)
    for name, count in (("a", 900), ("b", 300), ("c", 500)):
        write_corpus(made / name, rng.integers(1, 60, size=count))
    write_corpus(made / "one-document", [10_000])
    return made


def blend(folder: Path, *parts: str) -> list[str]:
    return [
        "--split=1,0,0",
        "--data-path",
        *(p if p[0].isdigit() else f"{folder}/{p}" for p in parts),
    ]


def refusal(*flags: str) -> str:
    with pytest.raises(UserError) as refused:
        check_budget(budget_of(parse(*flags)))
    return str(refused.value)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(10, 3000),
    schedule=st.sampled_from(["4:0.3", "6:0.2,2:0.5", "8:1.0", "3:0.1,2:0.1,3:0.4"]),
    parts=st.sampled_from([("a",), ("a", "b"), ("2", "a", "1", "b", "1", "c"), ("1", "a")]),
)
def test_so_many_steps_fit_and_one_more_does_not(folder: Path, steps, schedule, parts) -> None:
    def fits(steps: int) -> bool:
        flags = (f"--tst-schedule={schedule}", f"--train-iters={steps}")
        return budget_of(parse(*flags, *blend(folder, *parts))).is_met

    budget = budget_of(
        parse(f"--tst-schedule={schedule}", f"--train-iters={steps}", *blend(folder, *parts))
    )
    most = budget.steps_that_fit()
    assert fits(most)
    assert not fits(most + 1)
    up_to = budget.steps_that_fit(steps)
    assert up_to == steps if budget.is_met else up_to < steps and fits(up_to)


def test_the_refusal_names_stage_source_and_tokens(folder: Path) -> None:
    flags = (SCHEDULE, "--train-iters=600", *blend(folder, "a"))
    budget = budget_of(parse(*flags))
    worst = max(budget.stages, key=lambda stage: stage.epochs)
    says = refusal(*flags)
    for words in (
        f"the corpus {folder}/a is too small for the schedule",
        f"the stage with bag size {worst.part.tokens_a_position} needs {worst.needed:,} tokens",
        f"has {worst.available:,} of its own",
        f"read them {times(worst.epochs)} times of 1 allowed",
        f"; {budget.steps_that_fit(600):,} of 600 steps fit, or add --allow-repeats",
    ):
        assert words in says
    assert "\n" not in says


def test_the_weight_that_fits_is_named_and_fits(folder: Path) -> None:
    flags = (SCHEDULE, "--train-iters=300")
    says = refusal(*flags, *blend(folder, "1", "a", "1", "b"))
    assert f"the corpus {folder}/b" in says
    weight = float(says.split("or a weight of ")[1].split()[0])
    assert 0 < weight < 1
    check_budget(budget_of(parse(*flags, *blend(folder, "1", "a", str(weight), "b"))))
    refusal(*flags, *blend(folder, "1", "a", str(1.05 * weight), "b"))
    # No weight helps where another source is short as well.
    assert "weight" not in refusal(
        SCHEDULE, "--train-iters=3000", *blend(folder, "1", "a", "1", "b")
    )


def test_a_cap_allows_so_many_epochs_and_no_more(folder: Path) -> None:
    def flags(epochs: float) -> tuple[str, ...]:
        file = folder / "capped.yaml"
        file.write_text(
            f"sources:\n- {{path: a, weight: 1}}\n- {{path: b, weight: 1, epochs: {epochs}}}\n"
        )
        return (SCHEDULE, "--train-iters=300", "--split=1,0,0", f"--blend={file}")

    epochs = max(stage.epochs for stage in budget_of(parse(*flags(1))).stages)
    assert epochs > 1.2
    check_budget(budget_of(parse(*flags(epochs + 0.01))))
    assert f"of {epochs - 0.01:g} allowed" in refusal(*flags(epochs - 0.01))
    most = budget_of(parse(*flags(3))).steps_that_fit()
    assert most > budget_of(parse(*flags(1))).steps_that_fit()


def test_fewer_documents_than_stages_is_named(folder: Path) -> None:
    assert "too few documents: 0 tokens are left" in refusal(
        SCHEDULE, *blend(folder, "one-document")
    )
    # A blend by size cannot have a source without one sample, which Megatron would notice late.
    write_corpus(folder / "short", [3] * 8)
    says = refusal(SCHEDULE, *blend(folder, "a", "short"))
    assert f"the corpus {folder}/short has too few documents" in says


def test_a_corpus_named_twice_is_refused(folder: Path) -> None:
    assert "is named 2 times" in refusal(SCHEDULE, *blend(folder, "1", "a", "2", "a"))


def test_output_superposition_needs_no_more_than_an_ordinary_run(folder: Path) -> None:
    ordinary = budget_of(parse(*blend(folder, "a")))
    output = budget_of(parse(SCHEDULE, "--tst-superpose=output", *blend(folder, "a")))
    assert output.stages == ordinary.stages
    assert [stage.part.tokens_a_position for stage in output.stages] == [1]


def test_repeat_free_steps_are_of_the_command_line(folder: Path) -> None:
    flags = ["--seq-length=8", "--global-batch-size=4", SCHEDULE, *blend(folder, "a")]
    most = budget_of(parse(*flags)).steps_that_fit()
    assert repeat_free_steps(flags, 10 * most) == most
    assert repeat_free_steps(flags, 30) == 30


def test_times_rounds_up() -> None:
    assert [times(x) for x in (0.5, 1.0, 1.0001, float("inf"))] == ["0.50", "1.00", "1.01", "-"]


def test_files_are_checked_whole(folder: Path, tmp_path: Path) -> None:
    check_files([str(folder / "a")])
    index, text = ((folder / f"a{ending}").read_bytes() for ending in (".idx", ".bin"))
    num_tokens = read_index(folder / "a").num_tokens
    for damage, says in (
        ((index, None), "is missing: there is no file .*bad.bin"),
        ((None, text), "is missing: there is no file .*bad.idx"),
        ((index, text[:-1]), f"bad.bin is cut short: it has .* bytes of {4 * num_tokens:,}"),
        ((index[:-1], text), "bad.idx is cut short"),
        ((b"", text), "bad.idx is broken"),
    ):
        for ending, content in zip((".idx", ".bin"), damage, strict=True):
            (tmp_path / f"bad{ending}").unlink(missing_ok=True)
            if content is not None:
                (tmp_path / f"bad{ending}").write_bytes(content)
        with pytest.raises(UserError, match=says):
            check_files([str(tmp_path / "bad")])
    write_corpus(tmp_path / "empty", [])
    with pytest.raises(UserError, match="empty is empty: its index holds no tokens"):
        check_files([str(tmp_path / "empty")])
