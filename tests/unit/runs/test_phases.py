from pathlib import Path

from ledgers import write_ledger

from tst_megatron.runs.phases import Logged, Phase, phase_name, phases_from, phases_of
from tst_megatron.runs.ledger import Ledger


def test_an_ordinary_run_is_one_phase(tmp_path: Path):
    assert phases_of(write_ledger(tmp_path / "l", {30: 4.0})) == (Phase(0, 1, 1, 30),)


def test_switches_are_exact_to_the_step_between_logged_lines(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {100: 4.0}, stages=[(4, 120), (2, 100)])
    assert phases_of(ledger) == (Phase(0, 4, 1, 30), Phase(1, 2, 31, 55), Phase(2, 1, 56, 100))


def test_a_schedule_that_names_its_last_stage_is_the_same(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {100: 4.0}, stages=[(4, 120), (1, 280)])
    assert phases_of(ledger) == (Phase(0, 4, 1, 30), Phase(1, 1, 31, 100))


def test_a_run_cut_short_has_the_phases_it_got_to(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {}, stages=[(4, 120), (2, 100)], last_step=22)
    assert phases_of(ledger) == (Phase(0, 4, 1, 22),)


def test_step_lines_are_believed_against_a_header_that_they_contradict(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {100: 4.0}, stages=[(4, 120)])
    ledger.header["superposition"]["stages"] = [[4, 200]]
    assert phases_of(ledger) == (Phase(0, 4, 1, 30), Phase(1, 1, 31, 100))


def test_without_a_batch_size_the_step_lines_are_used(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {54: 4.0}, stages=[(4, 132)])
    del ledger.header["flags"]["global_batch_size"]
    assert phases_of(ledger) == (Phase(0, 4, 1, 30), Phase(1, 1, 31, 54))


def test_no_progress_no_phase():
    assert phases_of(Ledger({"superposition": {"stages": [[4, 8]]}})) == ()


def test_names():
    assert (phase_name(4), phase_name(1)) == ("bags of 4", "single tokens")


def test_a_switch_decided_by_measurement_is_where_it_was_decided(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {20: 4.2, 100: 4.0}, stages=[(4, 120)])
    ledger.header["superposition"]["stages"] = [[4, 200]]
    ledger.validations[0]["switch_step"] = 30
    assert phases_of(ledger) == (Phase(0, 4, 1, 30), Phase(1, 1, 31, 100))


def test_lines_without_a_bag_size_are_of_the_phase_around_them():
    """As W&B samples every series apart."""
    sizes = [4, None, 4, None, 1, None, None]
    logged = [Logged(10 * at, int(size == 1), size) for at, size in enumerate(sizes, start=1)]
    assert phases_from({}, logged, 75) == (Phase(0, 4, 1, 30), Phase(1, 1, 31, 75))
    assert phases_from({}, [Logged(10, 0, None)], 10) == (Phase(0, 1, 1, 10),)
