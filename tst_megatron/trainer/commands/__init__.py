"""Commands of ``tst-megatron`` about training, a module each."""
