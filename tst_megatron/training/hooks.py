def install_hooks(*a): pass
