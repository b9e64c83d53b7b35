"""What of runs and tables becomes the points of a law, what is left out, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_laws import CHINCHILLA
from made_runs import made_ledger

from tst_megatron.analysis.scaling.law_file import LawRecord, LawRun, read_law, write_law
from tst_megatron.analysis.scaling.point import BASELINE
from tst_megatron.analysis.scaling.points import Points, read_points
from tst_megatron.errors import UserError
from tst_megatron.runs.run import LossUnit

POSITIONS_A_STEP = 4 * 128
WSD = {"lr_decay_style": "WSD", "lr_wsd_decay_iters": 10, "num_experts": None, "num_layers": 2}


def of_size(folder: Path, name: str, total: int = 1000, **kw: Any) -> Path:
    flags = WSD | {"lr": 1e-3} | kw.pop("flags", {})
    header = {"parameters": {"total": total, "active": total // 2}, **kw.pop("header", {})}
    return made_ledger(folder, name, header, flags=flags, losses=kw.pop("losses", {100: 3.0}), **kw)


def table(folder: Path, *lines: str, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_ledger_is_a_point(tmp_path: Path):
    bags = of_size(tmp_path, "bags", stages=[(4, 120)], header={"seed": 3})
    (point,) = read_points([bags]).points
    assert (point.setting, point.total, point.active, point.seed) == (
        "bags of 4 for 30 %",
        1000,
        500,
        3,
    )
    assert (point.positions, point.loss, point.flops) == (100 * POSITIONS_A_STEP, 3.0, 100e9)
    assert not point.has_experts


def test_a_table_is_points_and_what_it_leaves_out_is_not_known(tmp_path: Path):
    runs = table(
        tmp_path,
        "params, tokens,loss,setting,seed,flops",
        "1e6,2e7,3.5,,1,",
        "",
        "1e6,4e7,3.25,stacked,2,1e15",
    )
    found = read_points([runs])
    one, other = found.points
    assert (one.setting, one.seed, one.flops, one.has_experts) == (BASELINE, 1, None, None)
    assert (other.setting, other.name) == ("stacked", "runs:4")
    assert found.settings == (BASELINE, "stacked")
    # 1e15 / (6 * 4e7)
    by_flops = Points((other,), "flops")
    assert by_flops.parameters(other) == pytest.approx(1e15 / 2.4e8)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["params,tokens,loss", "1e6,0,3"], r'line 2: tokens is "0": it takes a number above 0'),
        (["params,tokens,loss", "x,1e6,3"], r'params is "x"'),
        (["params,tokens,loss", "1e6,1e6,three"], r'the loss "three" is no number'),
        (["params,tokens,loss,seed", "1e6,1e6,3,a"], r'the seed "a" is no whole number'),
        (["params,tokens,loss", "1e6,1e6"], r"line 2: 2 cells below 3 names"),
        (
            ["params,tokens,loss,colour", "1,1e6,1,1"],
            r'a column "colour", which means nothing here',
        ),
        (["params,tokens,loss,loss", "1,1e6,1,1"], r"the column loss twice"),
        (["params,tokens,loss"], r"has no row"),
        (["params;tokens;loss", "1e6;1e6;3"], r"separate them with commas"),
        (["Params,Tokens,Loss", "1e6,20,3"], r"tokens is 20, .* in billions\?"),
        (["params,tokens,loss", "1e6,1e6,nan"], r"no whole run .* ended with a loss that is no"),
        (["params,tokens,loss,experts", "1e6,1e6,3,0", "1e6,1e6,3,8"], r"of no common law"),
        (
            ["params,tokens,loss,unique_tokens", "1e6,1e7,3,1e6"],
            r"reads its text 10.0 times, .* give --allow-repeats",
        ),
    ],
)
def test_a_table_that_cannot_be_taken_as_it_stands(tmp_path: Path, lines: list[str], said: str):
    with pytest.raises(UserError, match=said):
        read_points([table(tmp_path, *lines)])


def test_runs_that_are_not_whole_are_left_out_by_name(tmp_path: Path):
    runs = [
        of_size(tmp_path, "whole"),
        of_size(tmp_path, "cut", losses={50: 3.5}),
        of_size(tmp_path, "steady", flags={"lr_decay_style": "constant"}),
        of_size(tmp_path, "blind", losses={}, last_step=100),
        of_size(tmp_path, "diverged", losses={100: None}),
    ]
    found = read_points(runs)
    assert [point.name for point in found.points] == ["whole"]
    left = dict(found.left_out)
    assert left["cut"] == "was evaluated last at step 50 of 100"
    assert left["steady"] == "has no decay of its learning rate"
    assert left["blind"] == "has no held-out loss"
    assert "no number" in left["diverged"]


def test_runs_of_other_text_are_of_no_common_law(tmp_path: Path):
    runs = [
        of_size(tmp_path, name, header={"tokenizer": {"sha256": name}, "seed": seed})
        for seed, name in enumerate("ab")
    ]
    with pytest.raises(UserError, match=r"a and b differ in the tokenizer .*: fit them apart"):
        read_points(runs)


def of_tokenizer(folder: Path, name: str, bytes_a_token: float, sha256: str, **kw: Any) -> Path:
    """A run at 0.9 bits a byte, of a text of 80,000 bytes that all of them validate on."""
    text = {"sha256": "t", "documents": 9, "bytes": 80_000, "corpora": 1}
    header = {
        "tokenizer": {"sha256": sha256 * 64},
        "held_out": text | {"tokens": round(80_000 / bytes_a_token)},
        **kw.pop("header", {}),
    }
    flags = {"full_validation": True, "seq_length": 128}
    nats = 0.9 * math.log(2) * bytes_a_token
    path = of_size(folder, name, header=header, flags=flags, losses={100: nats}, **kw)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1] |= {"tokens": 1_000, "bytes": round(1_000 * bytes_a_token)}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_runs_of_several_tokenizers_are_in_bits_with_an_m_each(tmp_path: Path):
    runs = [
        of_tokenizer(tmp_path, "base", 4.0, "1"),
        of_tokenizer(tmp_path, "windows", 5.0, "2", total=1200),
    ]
    found = read_points(runs)
    assert found.unit == "bits a byte"
    assert [point.setting for point in found.points] == [BASELINE, "tokenizer 22222222"]
    assert [point.loss for point in found.points] == pytest.approx([0.9, 0.9])
    assert found.text["tokenizer"] == {"sha256": "1" * 64}
    assert "one of its positions is worth" in " ".join(found.notes)
    rows = table(tmp_path, "params,tokens,loss", "1e6,2e7,3.5")
    with pytest.raises(UserError, match=r"runs.csv does not tell how many bytes"):
        read_points([*runs, rows])


def test_one_tokenizers_runs_are_in_bits_where_that_is_asked_for(tmp_path: Path):
    run = of_tokenizer(tmp_path, "base", 4.0, "1")
    (point,) = read_points([run]).points
    assert point.loss == pytest.approx(0.9 * math.log(2) * 4)
    found = read_points([run], asks_bits=True)
    assert (found.unit, found.points[0].loss) == ("bits a byte", pytest.approx(0.9))
    with pytest.raises(UserError, match=r"--bits-a-byte: plain does not tell how many bytes"):
        read_points([of_size(tmp_path, "plain")], asks_bits=True)


def test_a_law_keeps_its_unit(tmp_path: Path):
    runs = (LawRun("told", BASELINE, 1e3, 1e5, 3.0, 1e5),)
    record = LawRecord(CHINCHILLA, CHINCHILLA, runs, "total", {}, unit=LossUnit.BITS)
    write_law(tmp_path / "law.json", record)
    assert read_law(tmp_path / "law.json").unit is LossUnit.BITS
    told = json.loads((tmp_path / "law.json").read_text())
    del told["loss_unit"]
    (tmp_path / "law.json").write_text(json.dumps(told))
    assert read_law(tmp_path / "law.json").unit is LossUnit.NATS


def test_what_was_trained_before_a_run_is_not_its_positions(tmp_path: Path):
    parents = [{"ledger": None, "step": 0, "flops": 7e9, "what": "a byte model"}]
    run = of_size(tmp_path, "run", header={"parents": parents})
    assert read_points([run]).points[0].flops == 100e9


def test_a_law_knows_what_text_its_losses_are_of(tmp_path: Path):
    runs = [
        of_size(tmp_path, "told", header={"tokenizer": {"sha256": "a"}}, flags={"eval_iters": 3}),
        of_size(tmp_path, "untold"),
    ]
    text = read_points(runs).text
    assert text["tokenizer"] == {"sha256": "a"}
    assert text["held-out text"] == {"sequences evaluated": 12, "seq_length": 128}
    record = LawRecord(CHINCHILLA, CHINCHILLA, (), "total", {}, text=text)
    kept = replace(record, runs=(LawRun("told", BASELINE, 1e3, 1e5, 3.0, 1e5),))
    write_law(tmp_path / "law.json", kept)
    assert read_law(tmp_path / "law.json").text == text


def test_what_n_is_has_to_be_told_by_every_run(tmp_path: Path):
    told, untold = of_size(tmp_path, "told"), of_size(tmp_path, "untold", header={"parameters": {}})
    with pytest.raises(UserError, match=r"untold does not tell its number .* --count flops"):
        read_points([told, untold])
    found = read_points([told, untold], "flops")
    # 1e9 FLOPs a step of 512 positions.
    assert found.parameters(found.points[0]) == pytest.approx(1e9 / 6 / 512)


def at_rate(folder: Path, rate: float, seed: int, loss: float, total: int = 1000) -> Path:
    name = f"{total}-{rate}-{seed}"
    return of_size(
        folder, name, total, flags={"lr": rate}, losses={100: loss}, header={"seed": seed}
    )


def test_a_rate_is_chosen_on_shared_seeds_and_others_confirm_it(tmp_path: Path):
    swept = [at_rate(tmp_path, rate, 4, loss) for rate, loss in ((1e-3, 3.0), (2e-3, 2.9))]
    further = [at_rate(tmp_path, 2e-3, seed, 2.95) for seed in (1, 2)]
    found = read_points([*swept, *further])
    assert {point.name for point in found.points} == {"1000-0.002-1", "1000-0.002-2"}
    assert dict(found.left_out) == {
        "1000-0.001-4": "has the learning rate 0.001, and 0.002 ended lower",
        "1000-0.002-4": "chose its learning rate, which others confirm",
    }
    # With nobody left to confirm, the choice is in the figure, and said.
    alone = read_points(swept)
    assert [point.name for point in alone.points] == ["1000-0.002-4"]
    assert any("a little too low" in note for note in alone.notes)
    with pytest.raises(UserError, match=r"0.001, 0.002 on different seeds"):
        read_points([swept[0], further[0]])


def test_one_rate_for_all_sizes_and_other_settings_are_said(tmp_path: Path):
    sizes = [of_size(tmp_path, str(total), total) for total in (1000, 2000)]
    (note,) = read_points(sizes).notes
    assert "All sizes of baseline have one learning rate, 0.001" in note
    other = of_size(tmp_path, "other", 4000, flags={"weight_decay": 0.3, "allow_repeats": True})
    plain = of_size(tmp_path, "plain", 4000, flags={"weight_decay": 0.1})
    notes = " ".join(read_points([other, plain]).notes)
    assert "The runs differ in weight_decay (0.1, 0.3) besides" in notes
    assert "1 runs were allowed to read text again (other)" in notes


def test_rows_that_say_the_same_run_count_once(tmp_path: Path):
    rows = ["params,tokens,loss,seed", "1e6,2e7,3.5,1", "1e6,2e7,3.5,1", "1e6,2e7,3.5,2.0"]
    runs = table(tmp_path, *rows)
    found = read_points([runs, runs])
    assert [point.seed for point in found.points] == [1, 2]
    assert any("1 rows say what another row says" in note for note in found.notes)


def test_a_method_of_one_place_is_said_to_be_no_law(tmp_path: Path):
    bags = table(tmp_path, "params,tokens,loss,setting", "1e6,2e7,3.5,", "1e6,2e7,3.4,bags")
    assert any("bags was run at 1 sizes and lengths" in note for note in read_points([bags]).notes)
