"""What ``make test-upstream`` takes for a seam, of a made package, and which Megatrons it takes."""

from pathlib import Path

import pytest

from tests.upstream.overlay import OverlayError, lay_over
from tests.upstream.seams import GONE, Seam, looked_up, seams_in

SOURCE = """\
import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import multi_token_prediction as heads
from megatron.training import training as trainer

HOOKED = {"train_step": ("forward_step_func",)}
ORIGINALS = {name: getattr(trainer, name) for name in HOOKED}
PATCHED = {(heads, "roll_tensor"): ("tensor",)}


class Ours(GPTModel):
    def forward(self, input_ids):
        return trainer.evaluate(input_ids)


def width(args):
    return args.hidden_size
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "one.py").write_text(SOURCE)
    return folder


def test_seams_are_found_with_the_line_that_meets_them(package: Path) -> None:
    found = {seam.key: seam.place for seam in seams_in(package)}
    heads, training = "megatron.core.transformer.multi_token_prediction", "megatron.training"
    assert found == {
        "megatron.core.models.gpt.GPTModel": "made/one.py:2",
        heads: "made/one.py:3",
        f"{training}.training": "made/one.py:4",
        f"{training}.training.train_step": "made/one.py:6",
        f"{heads}.roll_tensor": "made/one.py:8",
        "megatron.core.models.gpt.GPTModel.forward": "made/one.py:12",
        f"{training}.training.evaluate": "made/one.py:13",
        "--hidden-size": "made/one.py:17",
    }


def test_a_seam_is_what_it_takes() -> None:
    told = looked_up(
        [
            # None that we replace: another test of this process may have.
            ("megatron.core.utils", "divide"),
            ("megatron.core", "utils"),
            ("megatron.training.training", "no_such_function"),
            ("", "hidden_size"),
            ("", "no_flag_of_megatrons"),
        ]
    )
    assert told["megatron.core.utils.divide"] == ["numerator", "denominator"]
    assert told["megatron.core.utils"] == ["module"]
    assert told["megatron.training.training.no_such_function"] == [GONE]
    assert told["--hidden-size"] == ["_StoreAction, default None"]
    assert Seam("", "no_flag_of_megatrons", "").key not in told


def test_what_is_no_megatron_is_refused_and_nothing_is_removed(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    with pytest.raises(OverlayError, match="neither a version nor a checkout"):
        lay_over(str(checkout), tmp_path / "out", Path("uv"))
    for part in ("core", "training"):
        (checkout / "megatron" / part).mkdir(parents=True)
    (checkout / "megatron/core/own.py").write_text("")
    with pytest.raises(OverlayError, match="give another --out"):
        lay_over(str(checkout), checkout / "megatron", Path("uv"))
    assert (checkout / "megatron/core/own.py").exists()
    (checkout / "megatron/core/datasets").mkdir()
    path = lay_over(str(checkout), tmp_path / "out", Path("uv"))
    assert (path / "megatron/core/own.py").exists()
    # What the installed one has compiled is there, too.
    assert list((path / "megatron/core/datasets").glob("helpers_cpp*.so"))
