"""What becomes of a chain whose links end, fail or are cut off; a stand-in trains them."""

import io
import signal
from pathlib import Path

import pytest
from rich.console import Console
from stand_in import stand_in_for_torchrun

from tst_megatron.chains import running
from tst_megatron.chains.chain import Chain, chain_of
from tst_megatron.chains.commands import run
from tst_megatron.chains.file import read_chain
from tst_megatron.cli import COMMANDS, _given
from tst_megatron.errors import INTERRUPTED_EXIT_CODE, UserError
from tst_megatron.experiments.bars import Bars
from tst_megatron.experiments.cells import Places

# What it does stands behind --wandb-exp-name.
TRAINER = """#!/usr/bin/env bash
last=100
for word; do
    [ "${before:-}" = --wandb-exp-name ] && does=$word
    case $word in
    --save=*) saves=${word#*=} ;;
    --ledger=*) ledger=${word#*=} ;;
    --exit-after-step=*) last=${word#*=} ;;
    esac
    before=$word
done
[ $does = refuse ] && { echo "tst-megatron: error: the flag is wrong"; exit 1; }
[ $does = early ] && last=7
[ $does = wait ] && sleep 60
echo '{"kind": "header", "step": 0, "schema_version": 1}' > "$ledger"
echo '{"kind": "validation", "step": '$last', "next_token_loss": 3.0}' >> "$ledger"
echo -n $last > "$saves/latest_checkpointed_iteration.txt"
[ $does = break-at-the-end ] && exit 9
exit 0
"""
CHAIN = """
name: stacked
recipe: tiny
flags: {train-iters: 100, lr-wsd-decay-iters: 10, vocab-size: 384}
links:
"""


@pytest.fixture(autouse=True)
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_torchrun(tmp_path / "python", TRAINER, monkeypatch)
    monkeypatch.setattr(running, "_check_files", lambda link: None)


def chain_that(folder: Path, *what: str, lr: str = "1e-3") -> Chain:
    """Links that each do something; the last has a learning rate of its own."""
    file = folder / "chain.yaml"
    lines = [
        f"  - {{name: {name}, until: {20 * at}%, flags: {{wandb-exp-name: {does}}}}}"
        for at, (name, does) in enumerate(zip("abcd", what, strict=False), 1)
    ]
    last = f"  - {{name: last, schedule: own, flags: {{lr: {lr}, wandb-exp-name: train}}}}"
    file.write_text("\n".join([CHAIN.strip(), *lines, last, ""]))
    return chain_of(read_chain(file), folder / "out")


def train(chain: Chain) -> tuple[bool, str]:
    said = io.StringIO()
    done = running.train_chain(chain, Places(1), Console(file=said, width=200))
    return done, said.getvalue()


def test_links_are_trained_in_their_order_and_once(tmp_path: Path) -> None:
    done, said = train(chain_that(tmp_path, "train", "break-at-the-end"))
    assert done
    goes = [line for line in said.splitlines() if line.startswith("Link")]
    assert goes == [
        "Link 1 of 3, a, goes to step 20.",
        "Link 2 of 3, b, goes to step 40.",
        "Link 3 of 3, last, goes to step 100.",
    ]
    done, said = train(chain_that(tmp_path, "train", "break-at-the-end"))
    assert done
    assert said.splitlines() == [
        "Link 1 of 3, a, is done: step 20.",
        "Link 2 of 3, b, is done: step 40.",
        "Link 3 of 3, last, is done: step 100.",
    ]


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("refuse", "link b failed: the flag is wrong"),
        ("early", "link b ended after step 7, before its last, 40: the same command goes on"),
    ],
)
def test_a_link_that_does_not_end_where_it_is_to_ends_the_chain(
    does: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        train(chain_that(tmp_path, "train", does))
    assert not (tmp_path / "out/links/3-last").exists()


def test_a_file_may_change_where_nothing_is_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="link b failed"):
        train(chain_that(tmp_path, "train", "refuse"))
    with pytest.raises(UserError, match="1-a holds a link a with wandb-exp-name train, and this"):
        train(chain_that(tmp_path, "refuse", "refuse"))
    with pytest.raises(UserError, match="link b ended after step 7"):
        train(chain_that(tmp_path, "train", "early", lr="2e-3"))
    with pytest.raises(UserError, match="2-b holds a link b with wandb-exp-name early"):
        train(chain_that(tmp_path, "train", "train"))
    # Of the last, none of which has run.
    with pytest.raises(UserError, match="link b ended after step 7"):
        train(chain_that(tmp_path, "train", "early", lr="3e-3"))


def test_ctrl_c_stops_the_link_and_leaves_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped: list[int] = []

    def interrupted(bars: Bars, *others: object) -> None:
        raise KeyboardInterrupt

    def stop(processes: list[running.Process]) -> None:
        stopped.extend(process.torchrun.pid for process in processes)
        for process in processes:
            process.end(timeout_s=0.0)

    chain = chain_that(tmp_path, "wait")
    monkeypatch.setattr(Bars, "wait", interrupted)
    monkeypatch.setattr(running, "stop", stop)
    # What the command makes of signals would outlive the test.
    monkeypatch.setattr(signal, "signal", lambda *others: None)
    (row,) = (one for one in COMMANDS if one.words == ("chain", "run"))
    words = ["chain", "run", str(chain.file.path), f"--out={chain.out}", "--nproc-per-node=1"]
    assert run.main(*_given(row, words)) == INTERRUPTED_EXIT_CODE
    assert len(stopped) == 1
    assert "Stopping: the link is saving a checkpoint." in capsys.readouterr().out
