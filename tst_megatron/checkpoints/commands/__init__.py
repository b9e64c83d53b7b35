"""``tst-megatron checkpoint``: a module a job."""
