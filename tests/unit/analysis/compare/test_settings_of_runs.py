from pathlib import Path

from made_runs import made_run

from tst_megatron.analysis.compare.settings import compare_settings


def test_what_is_shared_and_what_differs(tmp_path: Path):
    one = made_run(
        tmp_path, "one", {"versions": {"torch": "2"}}, flags={"lr": 0.1, "save": "x", "betas": [1]}
    )
    two = made_run(
        tmp_path,
        "two",
        {"versions": {"torch": "3"}},
        stages=[(4, 100)],
        flags={"lr": 0.2, "save": "y", "betas": (1,), "tst_new": 1, "unset": None},
    )
    settings = compare_settings(one, two)
    assert settings.shared[:2] == (("seq_length", "128"), ("global_batch_size", "4"))
    assert settings.differing == (
        ("bags (size × samples)", "none", "4 × 100"),
        ("lr", "0.1", "0.2"),
        ("tst_new", "–", "1"),
        ("version of torch", "2", "3"),
    )
    assert settings.beyond_methods == ("lr", "version of torch")


def test_a_source_without_flags_differs_in_what_it_tells_alone(tmp_path: Path):
    one, two = made_run(tmp_path, "one", {"flags": {}, "seed": 7}), made_run(tmp_path, "two")
    assert compare_settings(one, two).differing == (("seed", "7", "1234"),)


def test_a_missing_run_differs_in_nothing(tmp_path: Path):
    settings = compare_settings(None, made_run(tmp_path, "one"))
    assert settings.differing == ()
    assert ("seed", "1234") in settings.shared
