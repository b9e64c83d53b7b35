"""What a run over a blend really reads, token by token, against what the budget says."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from counted_corpora import (
    SCHEDULE,
    VOCAB_SIZE,
    budget_of,
    build,
    mid_level_datasets,
    parse,
    tokens_of,
    write_corpus,
)
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from tst_megatron.corpora.blend import expand_blend
from tst_megatron.corpora.index_file import read_index
from tst_megatron.methods.superposition.text import text_of_bags

L = 8
START_OF_B = VOCAB_SIZE // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two corpora, a and b, that no token is shared by, and one to validate on."""
    made = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(5)
    write_corpus(made / "a", rng.integers(1, 40, size=500))
    write_corpus(made / "b", rng.integers(1, 80, size=400), start=START_OF_B)
    write_corpus(made / "held-out", [200])
    (made / "blend.yaml").write_text(
        "sources:\n- {path: a, weight: 3}\n- {path: b, weight: 7, epochs: 2}\n"
    )
    (made / "splits.yaml").write_text(
        "train:\n- {path: a, weight: 3}\n- {path: b, weight: 7}\nvalid:\n- path: held-out\n"
    )
    return made


# Flags, and the share of b that they ask for; None for its share of the samples there are.
BLENDS = {
    "weighted": ("--split=900,50,50 --data-path 3 {a} 7 {b}", 0.7),
    "unweighted": ("--split=900,50,50 --data-path {a} {b}", None),
    "one source": ("--split=900,50,50 --data-path {b}", 1.0),
    "one weighted source": ("--split=900,50,50 --data-path 5 {b}", 1.0),
    "per split, weighted": ("--train-data-path 3 {a} 7 {b} --valid-data-path {held-out}", 0.7),
    "per split, unweighted": ("--train-data-path {a} {b} --valid-data-path 1 {held-out}", None),
    "per split, one weighted": ("--train-data-path 5 {b}", 1.0),
    # As a recipe for one corpus has it: the splits are there already.
    "per split, with a split": ("--train-data-path {a} {b} --split=900,50,50", None),
    "YAML": ("--split=900,50,50 --blend {blend.yaml}", 0.7),
    "YAML per split": ("--blend {splits.yaml}", 0.7),
}


def run(folder: Path, blend: str, *more: str):
    flags = BLENDS[blend][0]
    for name in ("a", "b", "held-out", "blend.yaml", "splits.yaml"):
        flags = flags.replace(f"{{{name}}}", str(folder / name))
    return parse(*flags.split(), SCHEDULE, *more)


@pytest.mark.parametrize("blend", BLENDS)
def test_every_stage_reads_documents_of_its_own_as_the_budget_says(
    folder: Path, tmp_path: Path, blend: str
) -> None:
    args = run(folder, blend, f"--data-cache-path={tmp_path}")
    budget, dataset = budget_of(args), build(args)
    assert budget.is_met
    document_of_token = {}
    for start, name in ((0, "a"), (START_OF_B, "b")):
        lengths = read_index(folder / name).lengths
        places = np.repeat(np.arange(len(lengths)), lengths)
        document_of_token[name] = {start + i: (name, int(d)) for i, d in enumerate(places)}
    documents_of = document_of_token["a"] | document_of_token["b"]

    inputs: dict[int, list[int]] = {4: [], 2: [], 1: []}
    for index in range(dataset.schedule.num_samples):
        # A sample's last token is its neighbour's first, as in GPTDataset.
        size = dataset.schedule.locate(index).bag_size
        inputs[size].extend(tokens_of(dataset[index])[:-1].tolist())
    seen: set[tuple[str, int]] = set()
    for size, tokens in inputs.items():
        assert len(set(tokens)) == len(tokens), "no token is read twice"
        documents = {documents_of[token] for token in tokens}
        assert seen.isdisjoint(documents), "no document is another stage's"
        seen |= documents
        step = text_of_bags(size, 1, L).step
        lines = [line for line in budget.stages if line.part.tokens_a_position == size]
        num_samples = dataset.schedule.samples_of_bag_size(size)
        for line in lines:
            name = Path(line.source.prefix).name
            own = [token for token in tokens if documents_of[token][0] == name]
            drawn = len(own) // step
            assert len(own) == drawn * step
            assert drawn <= line.samples
            assert drawn * step + 1 <= line.needed <= line.available
            assert len({documents_of[token] for token in own}) <= line.documents
            share = {"a": 1 - wanted_share(blend, lines), "b": wanted_share(blend, lines)}[name]
            assert abs(drawn - share * num_samples) <= 1
        assert len(tokens) == num_samples * step


def wanted_share(blend: str, lines) -> float:
    if BLENDS[blend][1] is not None:
        return BLENDS[blend][1]
    a, b = ((line.available - 1) // line.part.step for line in lines)
    return b / (a + b)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("steps", [40, 150, 401])
def test_the_budget_is_of_the_data_sets_that_are_built(
    folder: Path, tmp_path: Path, blend: str, steps: int
) -> None:
    args = run(folder, blend, f"--data-cache-path={tmp_path}", f"--train-iters={steps}")
    budget, dataset = budget_of(args), build(args)
    by_size = len(budget.reading.sources) > 1 and budget.reading.sources[0].weight is None
    for size in (4, 2, 1):
        lines = [line for line in budget.stages if line.part.tokens_a_position == size]
        built = mid_level_datasets(dataset, size)
        for line, one in zip(lines, built, strict=True):
            assert line.source.prefix == one.dataset.path_prefix
            assert line.documents == len(one.indices)
            assert line.available == one._get_num_tokens_per_epoch()
            if not by_size:
                epochs = one._get_num_epochs(line.available)
                assert (line.needed <= line.available) == (epochs == 1)
                assert np.ceil(line.epochs) == epochs
        if by_size:
            # Megatron then makes one epoch of each, and we go round it.
            fits = dataset.schedule.samples_of_bag_size(size) <= sum(map(len, built))
            assert fits == all(line.is_met for line in lines)


def test_a_cap_is_the_most_that_any_token_is_read(folder: Path, tmp_path: Path) -> None:
    args = run(folder, "YAML", f"--data-cache-path={tmp_path}", "--train-iters=370")
    dataset = build(args)
    budget = budget_of(args)
    read: Counter[int] = Counter()
    for index in range(dataset.schedule.num_samples):
        read.update(tokens_of(dataset[index])[:-1].tolist())
    most = {
        "a": max(n for token, n in read.items() if token < START_OF_B),
        "b": max(n for token, n in read.items() if token >= START_OF_B),
    }
    lines_of_b = [line for line in budget.stages if line.source.prefix.endswith("b")]
    assert all(1.0 < line.epochs <= 2.0 and line.is_met for line in lines_of_b)
    assert most == {"a": 1, "b": 2}


def samples(args) -> list[np.ndarray]:
    dataset = build(args)
    return [tokens_of(dataset[index]) for index in range(dataset.schedule.num_samples)]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def copy_corpus(source: Path, prefix: Path) -> None:
    for ending in (".bin", ".idx"):
        Path(f"{prefix}{ending}").write_bytes(Path(f"{source}{ending}").read_bytes())


def test_samples_depend_on_text_and_seed_alone(folder: Path, tmp_path: Path) -> None:
    cache = f"--data-cache-path={tmp_path / 'cache'}"
    first = samples(run(folder, "weighted", cache))
    assert equal(first, samples(run(folder, "weighted", cache))), "from the cache"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a", "b", "held-out"):
        copy_corpus(folder / name, elsewhere / name)
    # A cache in which the same corpora were met in another order, and under another seed.
    other = f"--data-cache-path={tmp_path / 'other'}"
    samples(parse("--split=1,0,0", "--data-path", str(elsewhere / "b"), SCHEDULE, other))
    another_seed = samples(run(elsewhere, "weighted", other, "--seed=7"))
    assert equal(first, samples(run(elsewhere, "weighted", other)))
    assert not equal(first, another_seed)


def test_a_corpus_put_together_from_shards_gives_the_same_samples(
    folder: Path, tmp_path: Path
) -> None:
    lengths = read_index(folder / "a").lengths
    half = len(lengths) // 3
    write_corpus(tmp_path / "first", lengths[:half])
    write_corpus(tmp_path / "second", lengths[half:], start=int(lengths[:half].sum()))
    merged = IndexedDatasetBuilder(str(tmp_path / "merged.bin"), dtype=np.int32)
    for shard in ("first", "second"):
        merged.add_index(str(tmp_path / shard))
    merged.finalize(str(tmp_path / "merged.idx"))

    def of(*prefixes: Path) -> list[np.ndarray]:
        return samples(
            parse(
                *("--split=1,0,0", SCHEDULE, "--train-iters=20", "--data-path"),
                *(*map(str, prefixes), f"--data-cache-path={tmp_path / 'cache'}"),
            )
        )

    whole = of(folder / "a")
    assert equal(whole, of(tmp_path / "merged"))
    # Left in shards they are two sources, each shuffled by itself.
    assert not equal(whole, of(tmp_path / "first", tmp_path / "second"))


def test_a_blend_file_is_megatrons_blend(folder: Path, tmp_path: Path) -> None:
    flags = expand_blend(["--blend", str(folder / "blend.yaml")])
    assert flags[2:] == ["--data-path", "3.0", str(folder / "a"), "7.0", str(folder / "b")]
    cache = f"--data-cache-path={tmp_path}"
    assert equal(
        samples(run(folder, "YAML", cache)), samples(run(folder, "weighted", cache, "--seed=1234"))
    )
