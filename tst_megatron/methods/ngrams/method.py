"""Hashed n-grams as a method; what needs torch or Megatron is imported when asked for."""

import argparse
from typing import Any

from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.ngrams import flags
from tst_megatron.methods.ngrams.combinations import check_beside
from tst_megatron.methods.ngrams.exported import CODE, own_model
from tst_megatron.methods.ngrams.run import ORDERS, ROWS, NgramRun
from tst_megatron.methods.ngrams.story import NgramStory
from tst_megatron.methods.ngrams.terms import NgramTerms
from tst_megatron.methods.own_model import OwnCode, OwnModel, Reader


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

    def why_not_exported(self, before: Any, args: argparse.Namespace) -> str | None:
        """N-grams end with documents, and a checkpoint of before says not with which id."""
        if hasattr(args, "tokenizer_end"):
            return None
        return (
            "has tables of n-grams (--ngram-rows), and its checkpoint does not say which id ends a "
            "document, as those of this version do: go on with the run until it saves one"
        )

    @property
    def own_code(self) -> OwnCode:
        """Tables that are looked up by ids, and their hash."""
        return CODE

    def own_model(self, before: Any, args: argparse.Namespace, read: Reader) -> OwnModel:
        """Tables, and what ends a document."""
        return own_model(before, args)

    def terms(self) -> NgramTerms:
        """Tables."""
        return NgramTerms()

    def story(self) -> NgramStory:
        """In rows and lengths."""
        return NgramStory(self.name)


METHOD = NgramMethod()
