"""`tst-megatron generate` goes on as the model does, whatever else is in a batch."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tst_megatron import cli
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.huggingface.tokenizer_files import tokenizer_files

POSITIONS = 48
PROMPTS = ["def __init__(self):\n\treturn", "a", "  two  words"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights that are far from even, and a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    spec = made.sentencepiece_model(
        tmp_path_factory.mktemp("tokenizer") / "mine.model",
        add_dummy_prefix=True,
        user_defined_symbols=["\n", "\t"],
    )
    files = tokenizer_files(describe(str(spec)))
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=600,
        max_position_embeddings=POSITIONS,
        bos_token_id=files.special.bos,
        eos_token_id=files.special.eos,
        pad_token_id=None,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    files.write_to(folder)
    return folder


type Generate = Callable[..., str]


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Generate:
    """The command; what it prints."""

    def generate(*words: Any, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["tst-megatron", "generate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        return err if code else out

    return generate


@pytest.fixture
def records(generate: Generate, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """What the command writes into a file."""

    def records(*words: Any) -> list[dict[str, Any]]:
        out = tmp_path / "out.jsonl"
        assert generate(*words, "--out", out) == ""
        lines = out.read_text().splitlines()
        out.unlink()
        assert list(tmp_path.glob("*.partial")) == []
        return [json.loads(line) for line in lines]

    return records


def prompts_file(folder: Path) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS))
    return file


def likeliest(folder: Path, ids: list[int], number: int) -> list[int]:
    """The largest logit each time, by whole forward passes."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = list(ids)
    for _ in range(number):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-number:]


def test_greedy_is_the_largest_logit_each_time(
    model: Path, records: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    flags = ("--prompts", prompts_file(tmp_path), "--max-new-tokens", 12)
    single = records(model, *flags, "--batch-size", 1)
    assert records(model, *flags, "--batch-size", 3) == single
    assert records(model, *flags) == single
    assert [one["prompt"] for one in single] == PROMPTS
    for one in single:
        prompt = tokenizer(one["prompt"])["input_ids"]
        assert one["ids"] == likeliest(model, prompt, 12)
        assert tokenizer.decode([*prompt, *one["ids"]]) == one["prompt"] + one["text"]
        assert (one["finish_reason"], one["seed"]) == ("length", 0)


def test_a_text_ends_where_the_model_ends_it(
    model: Path, records: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    flags = ("--prompts", prompts_file(tmp_path), "--max-new-tokens", 12)
    before = records(model, *flags)
    last = before[1]["ids"][4]
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    # The folder's own settings, but for ids, are not what was asked for.
    settings = {"eos_token_id": [2, last], "do_sample": True, "repetition_penalty": 5.0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    after = records(folder, *flags)
    assert records(folder, *flags, "--batch-size", 1) == after
    for one, other in zip(before, after, strict=True):
        end = one["ids"].index(last) + 1 if last in one["ids"] else None
        assert other["ids"] == one["ids"][:end]
        assert other["finish_reason"] == ("length" if end is None else "eos")
        assert one["text"].startswith(other["text"])
    assert after[1]["finish_reason"] == "eos"
    assert {one["finish_reason"] for one in after} == {"eos", "length"}


def test_a_seed_and_a_prompt_make_a_text(
    model: Path, records: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    draws = ("--temperature", 1.1, "--top-p", 0.95, "--top-k", 200, "--max-new-tokens", 8)
    flags = ("--prompts", prompts_file(tmp_path), *draws, "--num-samples", 3)
    all_at_once = records(model, *flags, "--batch-size", 9)
    assert records(model, *flags, "--batch-size", 2) == all_at_once
    assert [one["seed"] for one in all_at_once] == [0, 1, 2] * 3
    assert len({tuple(one["ids"]) for one in all_at_once}) == 9
    one = all_at_once[5]
    alone = records(model, "--prompt", one["prompt"], *draws, "--seed", one["seed"])
    assert alone == [one]
    assert records(model, *flags, "--seed", 7) != all_at_once


def test_draws_are_of_the_models_probabilities(
    model: Path, records: Callable[..., list[dict[str, Any]]]
) -> None:
    number, temperature = 600, 1.5
    drawn = records(
        *(model, "--prompt", PROMPTS[0], "--max-new-tokens", 1, "--num-samples", number),
        *("--temperature", temperature, "--top-k", 4, "--batch-size", 200),
    )
    ids = AutoTokenizer.from_pretrained(model)(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model)(ids).logits[0, -1]
    best = logits.topk(4)
    shares = (best.values / temperature).softmax(0)
    for token, share in zip(best.indices.tolist(), shares.tolist(), strict=True):
        times = sum(one["ids"] == [token] for one in drawn)
        deviation = (number * share * (1 - share)) ** 0.5
        assert abs(times - number * share) < 4 * deviation
    assert {one["ids"][0] for one in drawn} <= set(best.indices.tolist())


def test_a_stream_prints_the_same_text(model: Path, generate: Generate) -> None:
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    flags = (model, *prompts, "--temperature", 1, "--num-samples", 2, "--max-new-tokens", 30)
    at_once = generate(*flags)
    assert generate(*flags, "--stream") == at_once
    assert at_once.startswith(f"--- 1 of 6, seed 0\n{PROMPTS[0]}")
    assert "--- 6 of 6, seed 1\n" in at_once
    one = generate(model, "--prompt", PROMPTS[0], "--stream")
    assert one == generate(model, "--prompt", PROMPTS[0])
    assert one.startswith(PROMPTS[0])
    assert one.endswith("\n")


def test_no_more_than_the_model_has_positions_for(
    model: Path, records: Callable[..., list[dict[str, Any]]]
) -> None:
    long = "x = " * 14
    flags = ("--prompt", long, "--prompt", "a", "--max-new-tokens", 20)
    cut, whole = records(model, *flags)
    tokens = len(AutoTokenizer.from_pretrained(model)(long)["input_ids"])
    assert 0 < len(cut["ids"]) == POSITIONS - tokens < 20 == len(whole["ids"])
    assert cut["finish_reason"] == "length"
    assert records(model, *flags, "--batch-size", 1) == [cut, whole]


def test_ids_where_there_is_no_tokenizer(
    model: Path,
    generate: Generate,
    records: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    (one,) = records(folder, "--prompt", "5 17 300", "--max-new-tokens", 6)
    assert one["ids"] == likeliest(folder, [5, 17, 300], 6)
    assert one["text"] == "".join(f" {id_}" for id_ in one["ids"])
    shown = generate(folder, "--prompt", "5 17 300", "--max-new-tokens", 6)
    assert shown == f"5 17 300{one['text']}\n"
    assert generate(folder, "--prompt", "5 17 300", "--max-new-tokens", 6, "--stream") == shown
    # An empty prompt begins as a document does, and a list of ids needs no tokenizer.
    file = tmp_path / "ids.jsonl"
    file.write_text('{"prompt": [5, 17, 300]}\n\n{"prompt": ""}\n')
    for of in (model, folder):
        listed, empty = records(of, "--prompts", file, "--max-new-tokens", 6)
        assert (listed["prompt"], listed["ids"]) == ([5, 17, 300], one["ids"])
        assert empty["ids"] == likeliest(folder, [2], 6)


def test_a_prompt_does_not_end_before_it_goes_on(
    model: Path, records: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """A tokenizer that ends documents by itself has not been asked for one."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    spec = made.tokenizer(tmp_path, "hf-llama2")
    tokenizer_files(describe(str(spec))).write_to(folder)
    (one,) = records(folder, "--prompt", "def f", "--max-new-tokens", 4)
    ids = AutoTokenizer.from_pretrained(folder)("def f")["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2)
    assert one["ids"] == likeliest(folder, ids[:-1], 4)


def test_text_is_no_order_to_a_terminal(model: Path, generate: Generate) -> None:
    shown = generate(model, "--prompt", "\x1b[31m\r\tred", "--max-new-tokens", 1)
    assert shown.startswith("\\x1b[31m\\r\tred")


def test_what_cannot_be_is_one_sentence(model: Path, generate: Generate, tmp_path: Path) -> None:
    for name, content in {
        "there.jsonl": "mine",
        "prompts.csv": "prompt\na\n",
        "empty.txt": " \n\n",
        "not-utf8.txt": b"\xff",
        "no-json.jsonl": '{"prompt": "a"}\nprompt\n',
        "no-prompt.jsonl": '{"text": "a"}\n',
        "no-text.jsonl": '{"prompt": 3}\n',
        "wrong-id.jsonl": '{"prompt": [1, 600]}\n',
    }.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    hi = ("--prompt", "hi")
    for words, says in [
        ((tmp_path / "none", *hi), "there is no folder"),
        ((model, *hi, "--step", 3), "is a model and no run: leave the flag out"),
        ((model, *hi, "--max-new-tokens", 0), "--max-new-tokens 0 is below 1"),
        ((model, *hi, "--batch-size", 0), "--batch-size 0 is below 1"),
        ((model, *hi, "--num-samples", 0), "--num-samples 0 is below 1"),
        ((model, *hi, "--seed", -1), "--seed -1 is below 0"),
        ((model, *hi, "--seed", 2**63), "is too large"),
        ((model, *hi, "--temperature", -0.5), "--temperature -0.5 is no temperature"),
        ((model, *hi, "--temperature", "nan"), "--temperature nan is no temperature"),
        ((model, *hi, "--temperature", 1, "--top-p", 1.5), "--top-p 1.5 is no share"),
        ((model, *hi, "--temperature", 1, "--top-k", 0), "--top-k 0 is below 1"),
        ((model, *hi, "--top-p", 0.9), "--top-p is for drawing"),
        ((model, *hi, "--num-samples", 2), "--num-samples is for drawing"),
        ((model, *hi, "--stream", "--batch-size", 2), "--stream shows one text at a time"),
        ((model, *hi, "--stream", "--out", "a.jsonl"), "--stream prints texts and --out"),
        ((model, *hi, "--out", tmp_path / "a.txt"), "let its name end with .jsonl"),
        ((model, *hi, "--out", tmp_path / "there.jsonl"), "is there already"),
        ((model, *hi, "--out", tmp_path / "no/a.jsonl"), "is in no folder that is there"),
        ((model, "--prompts", tmp_path / "none.txt"), "cannot be read: No such file"),
        ((model, "--prompts", tmp_path / "prompts.csv"), "is neither a .txt"),
        ((model, "--prompts", tmp_path / "empty.txt"), "has no prompt"),
        ((model, "--prompts", tmp_path / "not-utf8.txt"), "is not UTF-8 text, at byte 1"),
        ((model, "--prompts", tmp_path / "no-json.jsonl"), "line 2 of"),
        ((model, "--prompts", tmp_path / "no-prompt.jsonl"), 'has no "prompt"'),
        ((model, "--prompts", tmp_path / "no-text.jsonl"), 'has no "prompt" that is a text'),
        ((model, "--prompts", tmp_path / "wrong-id.jsonl"), "the prompt has id 600, and the model"),
        ((model, *hi, "--prompt", "x" * 200), "prompt 2 has 2"),
        ((model, "--prompt", "x\udc80"), "the prompt cannot be encoded: character 2"),
    ]:
        told = generate(*words, code=2)
        assert says in told
        assert told.count("\n") == 1
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    if not torch.cuda.is_available():
        assert "torch sees none here" in generate(model, *hi, "--device", "cuda", code=2)


def test_a_model_that_is_none_is_one_sentence(
    model: Path, generate: Generate, tmp_path: Path
) -> None:
    def changed(name: str, **config: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(model, folder)
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(own | config))
        return folder

    hi = ("--prompt", "hi")
    garbled = changed("garbled")
    (garbled / "config.json").write_text("{")
    assert "the configuration in" in generate(garbled, *hi, code=2)
    unknown = changed("unknown", model_type="no-such")
    assert "cannot be loaded by transformers" in generate(unknown, *hi, code=2)
    bare = changed("bare")
    (bare / "model.safetensors").unlink()
    assert f"the model in {bare} cannot be loaded" in generate(bare, *hi, code=2)
    deeper = changed("deeper", num_hidden_layers=3)
    told = generate(deeper, *hi, code=2)
    assert "is not whole: its weights lack model.layers.2." in told
    cut = changed("cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert f"the model in {cut} cannot be loaded" in generate(cut, *hi, code=2)
    wider = changed("wider", intermediate_size=96)
    assert generate(wider, *hi, code=2).startswith("tst-megatron: error: the model in")
    ids = changed("ids", bos_token_id=None, eos_token_id=None)
    for file in (*ids.glob("tokenizer*"), ids / "generation_config.json"):
        file.unlink()
    assert "is empty, and" in generate(ids, "--prompt", "", code=2)
    told = generate(ids, *hi, code=2)
    assert "the prompt cannot be encoded: it is not whole numbers" in told
    assert told.endswith("as the model has no tokenizer\n")
    assert "the prompt cannot be encoded: it holds id 600" in generate(
        ids, "--prompt", "4 600", code=2
    )
    assert generate(ids, "--prompt", "4 6", "--max-new-tokens", 2).startswith("4 6 ")
