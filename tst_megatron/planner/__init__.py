"""What a run will need, counted on any machine before it is started.

The one idea: Megatron itself says what a rank holds. `megatron_model` builds every pipeline stage
of a job of any size in one process, without a GPU and without memory; everything else here is
arithmetic on what was built.
"""
