"""What Megatron takes a GPU for, answered on a CPU; `tst_megatron.backends` installs it."""
