"""Hashed n-grams as a method; what needs torch or Megatron is imported when asked for."""

import argparse
from typing import Any

from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.ngrams import flags
from tst_megatron.methods.ngrams.combinations import check_beside
from tst_megatron.methods.ngrams.run import ORDERS, ROWS, NgramRun
from tst_megatron.methods.ngrams.story import NgramStory
from tst_megatron.methods.ngrams.terms import NgramTerms


class NgramMethod(Method):
    """Embeddings of the n-grams that end with a token (arXiv 2412.09871, 3.2.1)."""

    name = "ngrams"
    flag_prefix = "ngram"
    asked_by = ("ngram-rows",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--ngram-*`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """As `combinations.check_beside`."""
        if self.is_on(args):
            check_beside(args)

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--ngram-rows``."""
        return flags.is_on(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `NgramRun`."""
        return NgramRun(args)

    def why_not_without(self, before: Any) -> str:
        """Its layers were trained on what the tables give."""
        return (
            f"has tables of n-grams, which this run has not: give --ngram-rows {before[ROWS]} "
            f"--ngram-orders {before[ORDERS]}"
        )

    def why_not_exported(self, before: Any, args: argparse.Namespace) -> str:
        """No library has such tables."""
        return (
            "has tables of n-grams (--ngram-rows), which no model of Hugging Face's that an export "
            "writes has: evaluate it in its run, with --evaluate-at"
        )

    def terms(self) -> NgramTerms:
        """Tables."""
        return NgramTerms()

    def story(self) -> NgramStory:
        """In rows and lengths."""
        return NgramStory(self.name)


METHOD = NgramMethod()
