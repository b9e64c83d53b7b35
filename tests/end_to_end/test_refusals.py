"""Bad input ends with one sentence and code 2, and no process group was ever made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import bag_size
from trainer import TINY, Job, attempt, run

from tst_megatron.corpora.manifest import FileRecord, Manifest, TokenizerRecord, write_manifest
from tst_megatron.runs.ledger import read_ledger

BAGS = ("--tst-bag-size=4",)


def cases(corpus, folder: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Flags after the usual ones, and what the sentence must name."""
    empty, text = folder / "empty", folder / "text"
    for ending in (".bin", ".idx"):
        empty.with_suffix(ending).write_bytes(b"")
    text.write_text("a file, not a folder")
    cut = folder / "cut"
    whole = corpus.prefix.with_suffix(".bin").read_bytes()
    cut.with_suffix(".bin").write_bytes(whole[: len(whole) // 2])
    cut.with_suffix(".idx").write_bytes(corpus.prefix.with_suffix(".idx").read_bytes())
    indexed, file = folder / "indexed", FileRecord(0, "", [])
    tokenizer = TokenizerRecord("sentencepiece", "tokenizer", "0", 384, 2, [], "", 0, None)
    write_manifest(
        indexed, Manifest([], {}, tokenizer, "uint16", 1, 1, 1, 1, 0, {}, [], {}, file, file)
    )
    other = folder / "other.jsonl"
    other.write_text(
        '{"kind": "header", "step": 0, "flags": {"num_layers": 99}}\n'
        '{"kind": "validation", "step": 1, "next_token_loss": 3.0}\n'
    )
    blend, mistyped = folder / "blend.yaml", folder / "mistyped.yaml"
    blend.write_text(f"sources:\n- {{path: {corpus.prefix}, epochs: 2.5}}\n")
    mistyped.write_text(f"sources:\n- {{path: {corpus.prefix}, wieght: 1}}\n")
    answers = ("two", "two, as I have said before, and as I shall say again")
    items = [f'{{"question": "one and one is", "answer": "{one}"}}\n' for one in answers]
    (folder / "items.jsonl").write_text("".join(items))
    making, long = folder / "making.yaml", folder / "long.yaml"
    for path, kind in ((making, "generate_until"), (long, "loglikelihood")):
        path.write_text(
            f"task: {path.stem}\ndataset_path: json\n"
            "dataset_kwargs: {data_files: {test: items.jsonl}}\ntest_split: test\n"
            f'output_type: {kind}\ndoc_to_text: "{{{{question}}}}"\n'
            'doc_to_target: "{{answer}}"\n'
        )
    return {
        "bag size": (("--tst-bag-size=0",), ("bag size 0",)),
        "a run to compare with": (
            (f"--compare-with={folder / 'no'}",),
            ("--compare-with", str(folder / "no"), "is not there"),
        ),
        "a run to compare with that is none": (
            (f"--compare-with={text}",),
            ("--compare-with", f"{text}, line 1", "not a line of a ledger"),
        ),
        "a run to compare with of another model": (
            (f"--compare-with={other}",),
            (f"--compare-with {other}", "num_layers 99", "leave it out"),
        ),
        "an interval of the ledger": (
            ("--ledger-fsync-interval=-1",),
            ("--ledger-fsync-interval -1.0", "use 0"),
        ),
        "a rate of compression": (
            ("--proxy-schedule=0.4-0.9",),
            ("--proxy-schedule: 0.4-0.9 moves", "write 0.4-0.9:0.2"),
        ),
        "pairs without a rate": (("--proxy-pairs=0.2",), ("--proxy-pairs", "--proxy-schedule")),
        "made-up tokens in two forms": (
            ("--proxy-schedule=0.9", "--mock-data"),
            ("--mock-data does not go with --proxy-schedule",),
        ),
        "a corpus in one form": (
            ("--proxy-schedule=0.9",),
            (str(corpus.prefix), "no compressed form", "compressor proxy"),
        ),
        "missing corpus": ((f"--data-path={folder / 'no'}",), (str(folder / "no"), "missing")),
        "broken corpus": ((f"--data-path={empty}",), (str(empty), "broken")),
        "corpus cut short": ((f"--data-path={cut}",), (f"{cut}.bin", "cut short")),
        "too small a corpus": (
            (*BAGS, "--train-iters=100000"),
            ("too small for the schedule", "the stage with bag size", "steps fit"),
        ),
        "a corpus named twice": (
            (*BAGS, "--data-path", str(corpus.prefix), str(corpus.prefix)),
            (f"{corpus.prefix} is named 2 times",),
        ),
        "a split that is none": (("--split=90,,10",), ("--split '90,,10'", "969,30,1")),
        "a blend with a cap": (
            # Ordinary, too: the file says how often its text may be read.
            (f"--blend={blend}", "--train-iters=100000"),
            (f"{corpus.prefix} is too small", "of 2.5 allowed", "steps fit"),
        ),
        "a blend with a typo": (
            (f"--blend={mistyped}",),
            (f"the blend {mistyped}", "the key 'wieght'"),
        ),
        "what Megatron asserts": (("--bf16", "--fp16"), ("Megatron refuses", "not args.bf16")),
        "what only a configuration asserts": (
            ("--moe-expert-capacity-factor=1", "--moe-router-load-balancing-type=sinkhorn"),
            ("Megatron refuses", "capacity"),
        ),
        "several flags of a GPU": (
            ("--fp8-format=hybrid", "--profile"),
            ("--fp8-format and --profile need a GPU", "--use-pytorch-profiler"),
        ),
        "tokenizer of another corpus": (
            ("--tokenizer-type=NullTokenizer", "--vocab-size=100"),
            ("holds token id", "another tokenizer"),
        ),
        "another tokenizer than the manifest's": (
            (f"--data-path={indexed}",),
            (f"the corpus {indexed}", "another tokenizer than --tokenizer-model"),
        ),
        "vocabulary without the tokenizer's added tokens": (
            ("--vocab-size=300",),
            ("--vocab-size 300 is below the tokenizer's 384 tokens", "leave it out"),
        ),
        "missing tokenizer": (("--tokenizer-model=gone.model",), ("gone.model", "missing")),
        "reset attention mask": (
            (*BAGS, "--reset-attention-mask"),
            ("--reset-attention-mask", "--tst-bag-boundary document"),
        ),
        "too few short documents": (
            (*BAGS, "--tst-bag-boundary=document", "--train-iters=100000"),
            ("too small for the schedule", "steps fit"),
        ),
        "output folder": ((f"--save={text / 'below'}",), ("--save", "cannot be written")),
        "transformer engine": (
            ("--transformer-impl=transformer_engine",),
            ("--transformer-impl", "needs a GPU"),
        ),
        "loss in a kernel": (
            (*BAGS, "--tst-loss-implementation=kernel"),
            ("--tst-loss-implementation kernel needs a GPU", "leave it out"),
        ),
        "chunks of logits without bags": (
            ("--tst-logits-chunk-size=8",),
            ("--tst-logits-chunk-size does nothing without", "add --tst-bag-size"),
        ),
        "chunks of logits and a weight in shards": (
            (*BAGS, "--tst-logits-chunk-size=8", "--use-torch-fsdp2"),
            ("--use-torch-fsdp2 does not go with --tst-logits-chunk-size", "shards"),
        ),
        "context parallelism with a softmax of its own": (
            ("--context-parallel-size=2", "--softmax-type=off-by-one"),
            ("--context-parallel-size with --softmax-type", "needs a GPU"),
        ),
        "context parallelism inside documents": (
            ("--context-parallel-size=2", "--dataloader-inter-document-masking"),
            ("--dataloader-inter-document-masking with --context-parallel-size", "leave one"),
        ),
        "restarts inside the processes": (
            ("--inprocess-restart",),
            ("--inprocess-restart numbers the ranks anew", "torchrun --max-restarts"),
        ),
        "experts and tensor parallelism": (
            ("--num-experts=4", "--tensor-model-parallel-size=2"),
            ("--num-experts", "needs --sequence-parallel"),
        ),
        "saving without an interval": ((f"--save={folder / 's'}",), ("add --save-interval",)),
        "recipe": (("--recipe=nope",), ("no recipe 'nope'",)),
        "a checkpoint that is asked for": (
            (
                *(f"--load={folder / 'no'}", f"--save={folder / 'no'}", "--save-interval=1"),
                "--exit-on-missing-checkpoint",
            ),
            (f"--load {folder / 'no'} holds no checkpoint", "--exit-on-missing-checkpoint"),
        ),
        "a batch that grows": (
            ("--rampup-batch-size", "2", "2", "400"),
            ("--rampup-batch-size does nothing", "--step-batch-size-schedule '0:256"),
        ),
        "a task that is none": (
            ("--evaluate-at=end", "--evaluate-tasks=probe_role_swaps"),
            ("there is no task probe_role_swaps", "such as probe_role_swap"),
        ),
        "a task that wants text to be made": (
            ("--evaluate-at=end", f"--evaluate-tasks={making}"),
            ("the task making wants text to be made", "leave it out of --evaluate-tasks"),
        ),
        "a task with an answer that is too long": (
            ("--evaluate-at=end", f"--evaluate-tasks={long}"),
            (
                "long cannot be asked: an answer of a task has",
                "scores 1 to 16",
                "leave the task out",
            ),
        ),
        "an unknown flag": (("--tst-bagsize=4",), ("did you mean --tst-bag-size?",)),
    }


def test_validation_needs_an_interval(corpus, tmp_path: Path) -> None:
    usual = [flag for flag in TINY if not flag.startswith("--eval-interval")]
    result = attempt(tmp_path, (*usual, *corpus.flags))
    assert result.code == 2, result.output
    assert "add --eval-interval, or --eval-iters 0 for none" in result.output
    without = [flag for flag in usual if not flag.startswith("--eval-iters")]
    done = run(Job(tmp_path / "none", (*without, *corpus.flags, "--eval-iters=0")))
    assert len(done.losses) == 10
    assert not done.ledger.validations


def test_each_is_one_sentence(corpus, tmp_path: Path) -> None:
    wanted = cases(corpus, tmp_path)
    for name, (flags, words) in wanted.items():
        # A blend is in place of the data path.
        blended = any(flag.startswith("--blend") for flag in flags)
        usual = [f for f in corpus.flags if not (blended and f.startswith("--data-path"))]
        result = attempt(tmp_path / "out" / name, (*TINY, *usual, *flags))
        sentences = [
            line for line in result.output.splitlines() if line.startswith("tst-megatron:")
        ]
        assert result.code == 2, (name, result.output[-2000:])
        assert len(sentences) == 1, (name, result.output[-2000:])
        assert "Traceback" not in result.output, name
        for word in words:
            assert word in sentences[0], (name, sentences[0])


def test_what_a_cpu_cannot_use_is_imported_already(corpus) -> None:
    """As by a method's package that imports it when it is found."""
    early = "import sys, types; sys.modules['apex'] = types.ModuleType('apex')"
    program = f"{early}; from tst_megatron.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, "pretrain", *TINY, *corpus.flags],
        env=os.environ | {"TST_MEGATRON_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "tst-megatron: error: apex is imported already, and Megatron would use it on this CPU, "
        "where it does not run: leave that import out, or train on a GPU"
    )


def test_a_stop_without_a_code_is_no_success(corpus, tmp_path: Path) -> None:
    """Megatron leaves with 0 where it cannot train; here it does so for want of a package."""
    result = attempt(tmp_path, (*TINY, *corpus.flags, "--adlr-autoresume"))
    assert result.code == 3, result.output
    assert "Megatron stopped before the first step, and says why above" in result.output
    assert "ADLR autoresume is not available" in result.output


def test_a_run_without_torchrun_is_one_process(corpus, tmp_path: Path) -> None:
    recipe = tmp_path / "short.yaml"
    recipe.write_text("train-iters: 3\ntst-bag-size: 2\ntst-step-ratio: 0.4\n")
    ledger = tmp_path / "ledger.jsonl"
    flags = (*TINY, *corpus.flags, f"--recipe={recipe}", "--train-iters=4", "--lr-warmup-iters=1")
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "tst_megatron", "pretrain"),
            *(*flags, f"--ledger={ledger}"),
        ],
        timeout=300,
        env=alone,
        check=True,
        capture_output=True,
    )
    assert [bag_size(line) for line in read_ledger(ledger).steps] == [2, 2, 1, 1]


@pytest.mark.parametrize("command", [["-m", "tst_megatron"], None], ids=["module", "command"])
def test_help_shows_the_subcommands_and_examples(command) -> None:
    start = (
        [sys.executable, *command] if command else [f"{Path(sys.executable).parent}/tst-megatron"]
    )
    shown = subprocess.run([*start, "--help"], capture_output=True, text=True, check=True).stdout
    jobs = {"recipe": ["show"], "tokenizer": ["train"], "index": ["build"]}
    for name in ("pretrain", "demo", "plan", *jobs):
        assert f"    {name}" in shown
        help_of = [*start, name, *jobs.get(name, ()), "--help"]
        own = subprocess.run(help_of, capture_output=True, text=True, check=True)
        assert "examples:" in own.stdout
