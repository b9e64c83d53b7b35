import logging
import subprocess
import sys
import warnings

import pytest

from tst_megatron.noise import OF_MEGATRON_ALONE, WITHOUT_A_GPU, leave_out

ALL = (*OF_MEGATRON_ALONE, *WITHOUT_A_GPU)
# What training imports, and what Megatron imports as it goes.
_IMPORTS = """
from tst_megatron.noise import OF_MEGATRON_ALONE, leave_out
from tst_megatron.backends import prepare_backend
leave_out(OF_MEGATRON_ALONE)
prepare_backend()
import megatron.core.models.mimo
import tst_megatron.trainer.hooks
"""


def test_imports_say_nothing() -> None:
    """If they do, Megatron or torch has another warning: look whether it means anything."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("noise", [one for one in ALL if not one.logger])
def test_a_warning_of_other_words_is_shown(noise) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        leave_out([noise])
        for text in (noise.text, f"{noise.text} more", f"The {noise.text}"):
            warnings.warn(text, stacklevel=1)
    assert [str(one.message) for one in shown] == [f"{noise.text} more", f"The {noise.text}"]


def test_whoever_asks_for_them_gets_them() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        leave_out(ALL)
        warnings.warn(OF_MEGATRON_ALONE[0].text, stacklevel=1)
    assert len(shown) == 1


@pytest.mark.parametrize("noise", [one for one in ALL if one.logger])
def test_another_line_of_the_logger_is_shown(noise, caplog: pytest.LogCaptureFixture) -> None:
    leave_out([noise])
    logger = logging.getLogger(noise.logger)
    with caplog.at_level(logging.WARNING):
        for text in (noise.text, f"{noise.text} more"):
            logger.warning(text, *(("x",) if "%s" in text else ()))
    assert len(caplog.records) == 1
    assert caplog.records[0].msg.endswith("more")
