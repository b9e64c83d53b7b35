"""The YAML of sources: what it becomes, and every mistake in one."""

from pathlib import Path

import pytest
from counted_corpora import parse
from megatron.training.utils import get_blend_and_blend_per_split

from tst_megatron.corpora.blend import expand_blend, load_blend
from tst_megatron.corpora.sources import Source, sources_of_split
from tst_megatron.errors import UserError
from tst_megatron.recipes import expand_recipe


def write(folder: Path, content: str, name: str = "blend.yaml") -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    file = write(
        tmp_path / "below",
        "sources:\n- path: web/text\n- path: ../code\n- path: /data/books\n- path: s3://b/c\n",
    )
    paths = [f"{tmp_path}/below/web/text", f"{tmp_path}/code", "/data/books", "s3://b/c"]
    assert load_blend(file).flags == ["--data-path", *paths]
    args = parse(f"--blend={file}", "--split=1,0,0")
    assert get_blend_and_blend_per_split(args) == ((paths, None), None)


def test_lists_become_the_splits(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "train:\n- {path: /a, weight: 1, epochs: 4}\n- {path: /b, weight: 0.5}\n"
        "valid: [{path: /c}]\n",
    )
    args = parse("--blend", file)
    assert get_blend_and_blend_per_split(args) == (
        None,
        [(["/a", "/b"], [1.0, 0.5]), (["/c"], None), None],
    )
    assert sources_of_split(args, "train") == [
        Source("/a", 1.0, max_epochs=4.0),
        Source("/b", 0.5, max_epochs=1.0),
    ]
    assert sources_of_split(args, "valid") == [Source("/c")]
    assert sources_of_split(args, "test") == []


def test_the_last_blend_wins_and_stands_alone(tmp_path: Path) -> None:
    one = write(tmp_path, "sources: [{path: /a}]", "one.yaml")
    two = write(tmp_path, "sources: [{path: /b}]", "two.yaml")
    line = ["--blend", one, "--lr", "1", f"--blend={two}"]
    assert expand_blend(line) == ["--lr", "1", "--blend", two, "--data-path", "/b"]
    assert expand_blend(["--data-path", "/a"]) == ["--data-path", "/a"]
    for other in ("--data-path=/a", "--train-data-path", "--data-args-path", "--mock-data"):
        with pytest.raises(UserError, match="are two forms of one thing"):
            expand_blend(["--blend", one, other])
    with pytest.raises(UserError, match="--blend needs a file"):
        expand_blend(["--blend"])


def test_a_number_may_have_an_exponent(tmp_path: Path) -> None:
    file = write(tmp_path, "sources: [{path: /a, weight: 1e-3}, {path: /b, weight: 2E+1}]")
    assert load_blend(file).flags == ["--data-path", "0.001", "/a", "20.0", "/b"]


def test_a_recipe_carries_a_blend(tmp_path: Path) -> None:
    recipe = write(
        tmp_path,
        "lr: 1\nblend:\n  sources:\n  - {path: web, weight: 3, epochs: 2}\n"
        "  - {path: code, weight: 1}\n",
        "recipe.yaml",
    )
    line = expand_blend(expand_recipe(["--recipe", recipe, "--seed", "3"]))
    assert line == [
        *("--lr", "1", "--seed", "3", "--blend", recipe),
        *("--data-path", "3.0", f"{tmp_path}/web", "1.0", f"{tmp_path}/code"),
    ]
    assert load_blend(recipe).max_epochs == {f"{tmp_path}/web": 2.0}
    other = write(tmp_path, f"blend: {write(tmp_path, 'sources: [{path: /a}]')}\n", "two.yaml")
    assert expand_blend(expand_recipe(["--recipe", other]))[-2:] == ["--data-path", "/a"]


def test_data_on_the_command_line_replace_the_recipes(tmp_path: Path) -> None:
    recipe = write(tmp_path, "data-path: [/a, /b]\nlr: 1\n", "recipe.yaml")
    blend = write(tmp_path, "sources: [{path: /c}]")
    line = expand_blend(expand_recipe([f"--recipe={recipe}", f"--blend={blend}"]))
    assert line == ["--lr", "1", "--blend", blend, "--data-path", "/c"]
    # Flags of one form stand together, as without a recipe.
    recipe = write(tmp_path, "train-data-path: /a\nvalid-data-path: /b\n", "recipe.yaml")
    assert expand_recipe(["--recipe", recipe, "--valid-data-path", "/c"]) == [
        *("--train-data-path", "/a", "--valid-data-path", "/b", "--valid-data-path", "/c")
    ]
    assert expand_recipe(["--recipe", recipe, "--data-path", "/c"]) == ["--data-path", "/c"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sources: [", "is not YAML"),
        ("", "is not a list 'sources', or lists"),
        ("- path: a", "is not a list 'sources', or lists"),
        ("valid: [{path: a}]", "is not a list 'sources', or lists"),
        ("sources: [{path: a}]\ntrain: [{path: b}]", "is not a list 'sources', or lists"),
        ("sources: [{path: a}]\nseed: 3", "is not a list 'sources', or lists"),
        ("sources: []", "has no sources"),
        ("sources: {path: a}", "has no sources"),
        ("sources: [a]", "source 1 has no path"),
        ("sources: [{weight: 1}]", "source 1 has no path"),
        ("sources: [{path: ''}]", "source 1 has no path"),
        ("sources: [{path: a}, {path: b, wieght: 1}]", "source 2 has the key 'wieght'"),
        ("sources: [{path: a, weight: 0}]", "source 1 has the weight 0"),
        ("sources: [{path: a, weight: -2}]", "source 1 has the weight -2"),
        ("sources: [{path: a, weight: .inf}]", "source 1 has the weight inf"),
        ("sources: [{path: a, weight: true}]", "source 1 has the weight True"),
        ("sources: [{path: a, weight: yes}]", "has yes on line 1"),
        ("sources: [{path: a, weight: 1, weight: 2}]", "the key weight twice, on lines 1 and 1"),
        ("sources: [{path: a}]\nsources: [{path: b}]", "the key sources twice, on lines 1 and 2"),
        ("sources: [{path: a, weight: !!float 1}]", "has the tag"),
        ("blend: {sources: []}\ntst-blend: {sources: []}", "two spellings of one key"),
        ("sources: [{path: a, weight: '1'}]", "source 1 has the weight '1'"),
        ("sources: [{path: a, epochs: 0.5}]", "source 1 has epochs 0.5"),
        ("sources: [{path: a, epochs: many}]", "source 1 has the epochs 'many'"),
        ("sources: [{path: a, weight: 1}, {path: b}]", "weights for some of its sources"),
        ("sources: [{path: a}, {path: ./x/../a}]", "names .*/a twice"),
        ("train: [{path: a}]\nvalid: [{path: b, epochs: 2}]", "valid, source 1 has epochs"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, content: str, says: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=says) as refused:
        load_blend(file)
    assert str(refused.value).startswith(f"the blend {file}")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("gone.yaml", "bytes.yaml"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            load_blend(str(tmp_path / name))
