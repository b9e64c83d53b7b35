"""Mock data, as a new cluster is measured with them: with bags, and never held against text."""

import pytest
from ledgers import bag_size
from trainer import TINY, Job, Result, run

from tst_megatron.errors import UserError
from tst_megatron.runs.facts import differences, facts_of
from tst_megatron.trainer.live_comparison import OtherRun

NO_TOKENIZER = ("--tokenizer-type=NullTokenizer", "--vocab-size=100")


@pytest.fixture(scope="module")
def mock(tmp_path_factory) -> Result:
    """No corpus and no tokenizer are there; the split of NVIDIA's scripts is said, and not read."""
    bags = ("--tst-schedule=4:0.3,2:0.2", "--tst-bag-boundary=document", "--reset-position-ids")
    data = ("--mock-data", "--split=99,1,0", "--fixed-validation")
    folder = tmp_path_factory.mktemp("mock")
    return run(Job(folder, (*TINY, *NO_TOKENIZER, *bags, *data, f"--data-cache-path={folder}/c")))


def test_every_stage_trains_and_is_validated(mock: Result) -> None:
    steps = mock.ledger.steps
    assert [bag_size(line) for line in steps] == [4] * 3 + [2] * 2 + [1] * 5
    assert steps[0]["data_tokens"] == 4 * 4 * 16
    halfway, *_ = mock.ledger.validations
    assert {"next_token_loss", "losses"} <= set(halfway)
    assert set(halfway["losses"]) == {"bag loss"}


def test_a_comparison_with_text_is_refused(mock: Result) -> None:
    header = mock.ledger.header
    facts = facts_of(header)
    assert facts.topics["held-out text"]["mock_data"] is True
    assert "split" not in facts.topics["held-out text"], "Megatron cuts mock data as it pleases"
    other = OtherRun(mock.ledger_file)
    other.check_like(header)
    of_text = header | {"flags": header["flags"] | {"mock_data": False}}
    assert differences("held-out text", facts_of(of_text), facts)[0][0] == "mock_data"
    with pytest.raises(UserError, match="held-out text is another, with mock_data True"):
        other.check_like(of_text)
