"""The subcommands of ``tst-megatron tokenizer`` and ``tst-megatron index``, a module each."""
