"""The jobs of ``tst-megatron scaling``, a module each."""
