import argparse
from pathlib import Path

import pytest

from tst_megatron.errors import UserError
from tst_megatron.methods import registry
from tst_megatron.methods.method import Method
from tst_megatron.runs.facts import Facts, facts_of

THROWAWAY = Path(__file__).parents[2] / "throwaway"


@pytest.fixture(autouse=True)
def asked_anew():
    registry.methods.cache_clear()
    yield
    registry.methods.cache_clear()


def install(folder: Path, code: str, name: str = "mine") -> Path:
    """A package with one entry point, as pip would lay it down."""
    (folder / f"{name}_package.py").write_text(code)
    about = folder / f"{name}_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n")
    points = f"[tst_megatron.methods]\n{name} = {name}_package:METHOD\n"
    (about / "entry_points.txt").write_text(points)
    return folder


def test_our_own_methods_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = registry.methods()
    assert all(isinstance(method, Method) for method in ours)
    registry.methods.cache_clear()
    monkeypatch.syspath_prepend(THROWAWAY)
    assert [method.name for method in registry.methods()] == [*(m.name for m in ours), "throwaway"]
    assert registry.method_named("throwaway") is registry.methods()[-1]
    assert registry.method_named("nope") is None


def test_flags_of_a_method_begin_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(THROWAWAY)
    for method in registry.methods():
        parser = argparse.ArgumentParser(add_help=False)
        method.add_arguments(parser)
        assert parser._option_string_actions
        for flag in parser._option_string_actions:
            assert f"{flag}-".startswith(f"--{method.flag_prefix}-")
        assert {f"--{name}" for form in method.forms for name in form} <= {
            *parser._option_string_actions
        }


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("METHOD = 1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("", "cannot be loaded: AttributeError"),
        ("METHOD = 3", "is no method: let its entry point name an instance"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named(
    tmp_path: Path, code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, code, f"broken{abs(hash(code))}"))
    with pytest.raises(UserError, match=says) as raised:
        registry.methods()
    assert "-package (broken" in str(raised.value)


def test_two_methods_of_one_prefix_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from tst_megatron.methods.method import Method\n"
        "class Mine(Method):\n"
        "    name = 'mine'\n"
        "    flag_prefix = 'tst'\n"
        "METHOD = Mine()\n"
    )
    monkeypatch.syspath_prepend(install(tmp_path, code, "clashing"))
    with pytest.raises(UserError, match=r"clashing-package .* flags that begin with --tst-, and"):
        registry.methods()


MINE = """
from tst_megatron.methods.method import Method
class Mine(Method):
    {}
    def is_on(self, args):
        {}
METHOD = Mine()
"""


@pytest.mark.parametrize(
    ("body", "is_on", "says"),
    [
        ("flag_prefix = 'mine'", "return False", "has no name"),
        ("name = 'mine'", "return False", "has no flag_prefix"),
        (
            "name = flag_prefix = 'mine'",
            "raise ZeroDivisionError('oh')",
            "cannot be used: ZeroDivisionError: oh",
        ),
        (
            "name = flag_prefix = 'mine'\n"
            "    def add_arguments(self, parser): parser.add_argument('--ledger')",
            "return False",
            "adds the flag --ledger, which does not begin with --mine-",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    tmp_path: Path, body: str, is_on: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"unfit{abs(hash((body, is_on)))}"
    monkeypatch.syspath_prepend(install(tmp_path, MINE.format(body, is_on), name))
    with pytest.raises(UserError, match=says):
        registry.methods()


def test_what_must_be_alike_is_the_stories_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"num_layers": 2, "hidden_size": 8, "seq_length": 16}
    one = facts_of({"flags": flags, "parameters": {"total": 9}})
    other = facts_of({"flags": flags | {"num_layers": 3, "seq_length": 32}})
    wider = facts_of({"flags": flags, "parameters": {"total": 11}})
    length = ("seq_length", 16, 32)
    everything = {"model": ("num_layers", 2, 3), "held-out text": length, "batch": length}
    for names in ([], ["superposition", "a method of another package"]):
        assert registry.known_differences(names, one, other) == everything
    # A method may say that a topic, or some facts of one, are no matter.
    assert registry.known_differences(["ngrams"], one, other) == everything
    assert set(registry.known_differences(["superposition"], one, wider)) == {"model"}
    assert registry.known_differences(["superposition", "ngrams"], one, wider) == {}
    story = registry.method_named("superposition").story()
    monkeypatch.setattr(type(story), "topics", ("batch",))
    assert set(registry.known_differences(["superposition"], one, other)) == {"batch"}


def test_a_hybrid_model_is_its_twin() -> None:
    def model(**flags: object) -> Facts:
        usual = {"num_experts": 4, "moe_layer_freq": 1, "hidden_size": 8}
        return facts_of({"flags": usual | flags})

    gpt = model(num_layers=3, moe_layer_freq=2)
    spelled = model(num_layers=3, moe_layer_freq=[1, 0, 1])
    twin = model(num_layers=6, hybrid_layer_pattern="*E|*-*E")
    for other in (spelled, twin):
        assert registry.known_differences([], gpt, other) == {}
    others = (model(num_layers=6, hybrid_layer_pattern="*E*E*E"), model(num_layers=3))
    for other in others:
        assert set(registry.known_differences([], gpt, other)) == {"model"}
    assert registry.known_differences([], *others) == {}
    # A dense one, whatever is said of experts that no layer has.
    dense = model(num_layers=2, num_experts=None)
    twin = model(num_layers=4, hybrid_layer_pattern="*-*-")
    assert registry.known_differences([], dense, twin) == {}
    assert set(registry.known_differences([], model(num_layers=2), twin)) == {"model"}
    mamba = facts_of({"flags": {"num_layers": 4, "hybrid_layer_pattern": "M-M-"}})
    assert set(registry.known_differences([], gpt, mamba)) == {"model"}
