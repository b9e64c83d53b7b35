def expand_recipe(argv): return argv
