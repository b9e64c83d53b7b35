"""``make gpu-kit``: one file with what a machine with a GPU and no network lacks.

The project, Megatron-Core, small packages, Transformer Engine's parts and indexed text. The image
is expected to have torch and `image.txt`'s packages; of the kit's own it uses what it has not.
"""
