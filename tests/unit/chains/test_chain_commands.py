"""What a chain's commands print, and what the planner counts of its links."""

import json
import shlex
from pathlib import Path

import pytest

from tst_megatron import recipes
from tst_megatron.chains.chain import Chain, chain_of
from tst_megatron.chains.file import read_chain
from tst_megatron.chains.planned import plan_links, sums
from tst_megatron.chains.running import is_done
from tst_megatron.cli import COMMANDS, _given
from tst_megatron.errors import UserError
from tst_megatron.planner.hardware import GPUS

CHAIN = """
name: stacked
recipe: tiny
flags: {train-iters: 1000, lr-wsd-decay-iters: 100, vocab-size: 384, tst-schedule: "4:0.1"}
links:
  - {name: small, BUDGET, flags: {num-layers: 2}}
  - {name: grown, start: grow, flags: {grow: stack, num-layers: 8}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, "until: 25%")


def written(folder: Path, budget: str) -> Path:
    file = folder / "chain.yaml"
    file.write_text(CHAIN.replace("BUDGET", budget))
    return file


def chain_in(file: Path) -> Chain:
    return chain_of(read_chain(file), file.parent / "out")


def command(capsys: pytest.CaptureFixture[str], job: str, *words: str) -> str:
    (row,) = (one for one in COMMANDS if one.words == ("chain", job))
    module = __import__(row.module, fromlist=["main"])
    module.main(*_given(row, ["chain", job, *words]))
    return capsys.readouterr().out


def test_links_are_a_table_with_what_is_done(file: Path, capsys) -> None:
    chain = chain_in(file)
    chain.links[0].folder.mkdir(parents=True)
    (chain.links[0].folder / "latest_checkpointed_iteration.txt").write_text("250")
    lines = command(capsys, "show", str(file), f"--out={chain.out}").splitlines()
    (small,) = (line.split() for line in lines if " small " in line)
    # 100 steps of bags of 4, 150 of single tokens.
    assert small[-4:] == ["250", "250", f"{(400 + 150) * 512:,}", "done"]
    assert "grow" in next(line for line in lines if " grown " in line)


def test_a_link_that_another_has_gone_on_from_is_done(file: Path) -> None:
    chain = chain_in(file)
    assert not is_done(chain, chain.links[0])
    chain.links[1].folder.mkdir(parents=True)
    (chain.links[1].folder / "latest_checkpointed_iteration.txt").write_text("300")
    assert [is_done(chain, link) for link in chain.links] == [True, False]


def test_a_link_is_a_line_that_can_be_copied(file: Path, capsys) -> None:
    chain = chain_in(file)
    where = (str(file), f"--out={chain.out}")
    printed = command(capsys, "show", *where, "--link=grown", "--nproc-per-node=4")
    grown = [*chain.links[1].words]
    assert shlex.split(printed) == [
        *("torchrun", "--standalone", "--nproc-per-node=4", "-m", "tst_megatron", "pretrain"),
        *grown,
    ]
    there = command(capsys, "show", *where, "--link=2", "--nnodes=3", "--rdzv-endpoint=a:1")
    assert shlex.split(there)[1:5] == [
        *("--nnodes=3", "--rdzv-backend=c10d", "--rdzv-endpoint=a:1", "--rdzv-id=stacked-grown"),
    ]
    assert command(capsys, "show", *where, "--names").split() == ["1-small", "2-grown"]
    flags = command(capsys, "show", *where, "--link=2-grown", "--flags")
    assert flags.splitlines() == grown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--flags",), "--flags is of one link: add --link"),
        (("--link=other",), "--link other: the chain .* has the links small, grown"),
        (("--link=1", "--names"), "--names is of all links"),
        (("--link=1", "--nnodes=2"), "add --rdzv-endpoint"),
    ],
)
def test_what_show_cannot_is_one_sentence(file: Path, capsys, words, says: str) -> None:
    with pytest.raises(UserError, match=says):
        command(capsys, "show", str(file), *words)


def test_a_link_s_plan_is_its_share_of_a_run_of_its_model(file: Path, capsys) -> None:
    small, grown = plan_links(chain_in(file), 1, GPUS["h100"], 0.4)
    assert small.data_tokens == 550 * 512
    assert grown.data_tokens == 750 * 512
    per_step = {step.stage.name: step.work.total for step in small.plan.steps}
    assert small.flops == pytest.approx(
        100 * per_step["bags of 4"] + 150 * per_step["single tokens"]
    )
    # All of the second link lies in the last stage.
    assert grown.flops == pytest.approx(750 * grown.plan.steps[-1].work.total)
    assert grown.plan.parameters.total > small.plan.parameters.total
    told = json.loads(command(capsys, "plan", str(file), "--gpus=1", "--json"))
    assert [link["flops"] for link in told["links"]] == [small.flops, grown.flops]
    assert told["sums"] == sums((small, grown))
    assert told["sums"]["gpu_hours"] == pytest.approx(small.gpu_hours + grown.gpu_hours)
    table = command(capsys, "plan", str(file), "--gpus=1")
    assert "all" in table
    assert "1,000" in table


def test_the_example_becomes_the_recipe_of_its_experts(capsys, tmp_path: Path) -> None:
    file = Path(__file__).parents[3] / "examples/chain/dense-to-experts.yaml"
    chain = chain_of(read_chain(file), tmp_path)
    dense, experts = chain.links
    assert (dense.last, experts.last) == (6_000, 20_000)
    wanted = recipes.load("moe-20b-a3b-baseline")
    found = experts.values
    of_experts = [key for key in wanted if "moe-" in key or key == "num-experts"]
    assert len(of_experts) > 8
    assert {key: found[key] for key in of_experts} == {key: wanted[key] for key in of_experts}
    said = command(capsys, "show", str(file), f"--out={tmp_path}")
    assert "36 layers, 2048 wide, 64 experts, 8 a token" in said


def test_a_budget_in_flops_is_counted_as_the_plan_counts(tmp_path: Path) -> None:
    (small, _) = plan_links(chain_in(written(tmp_path, "steps: 130")), 1, GPUS["h100"], 0.4)
    again = chain_in(written(tmp_path, f"flops: {small.flops:.6e}"))
    assert again.links[0].last == 130
