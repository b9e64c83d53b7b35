"""Token superposition as a method."""

from tst_megatron.methods.method import Method
from tst_megatron.methods.superposition.story import SuperpositionStory


class SuperpositionMethod(Method):
    """Bags of tokens in, the next bag out, then ordinary training (arXiv 2605.06546)."""

    name = "superposition"
    flag_prefix = "tst"

    def story(self) -> SuperpositionStory:
        """In bags."""
        return SuperpositionStory(self.name)


METHOD = SuperpositionMethod()
