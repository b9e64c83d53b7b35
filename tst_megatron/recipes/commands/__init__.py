"""Commands of ``tst-megatron recipe``, a module each."""
