"""What a user sees of an error, and of Ctrl-C."""

import pytest

from tst_megatron.errors import UserError, user_errors_exit


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such file"), 2, "tst-megatron: error: no such file\n"),
        (KeyboardInterrupt(), 130, "tst-megatron: stopped by Ctrl-C\n"),
    ],
)
def test_one_sentence_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped, user_errors_exit():
        raise error
    assert stopped.value.code == code
    assert capsys.readouterr().err == line
