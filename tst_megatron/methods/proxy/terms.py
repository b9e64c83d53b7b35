"""What text in two forms adds to a plan: nothing but what its stages are called."""

from collections.abc import Mapping

from tst_megatron.methods.proxy.story import ProxyStory
from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import Fact


class ProxyTerms(Terms):
    """A position costs what it costs, of whichever form; the vocabulary is counted as any is."""

    @property
    def facts(self) -> Mapping[str, Fact]:
        """Nothing compressed."""
        return ProxyStory.facts
