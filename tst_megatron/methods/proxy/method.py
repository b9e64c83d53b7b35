"""Proxy compression as a method; what needs torch or Megatron is imported when asked for."""

import argparse

from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.proxy import flags
from tst_megatron.methods.proxy.run import ProxyRun
from tst_megatron.methods.proxy.story import ProxyStory
from tst_megatron.methods.proxy.terms import ProxyTerms


class ProxyMethod(Method):
    """Compressed text and bytes in training, bytes in use (arXiv 2602.04289)."""

    name = "proxy"
    flag_prefix = "proxy"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--proxy-*`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """As `flags.check_beside`."""
        if self.is_on(args):
            flags.check_beside(args)

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--proxy-schedule``."""
        return flags.is_on(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `ProxyRun`."""
        return ProxyRun(args)

    def story(self) -> ProxyStory:
        """In rates."""
        return ProxyStory(self.name)

    def terms(self) -> ProxyTerms:
        """As `ProxyTerms`."""
        return ProxyTerms()


METHOD = ProxyMethod()
