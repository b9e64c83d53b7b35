def check_before_validation(flags, on_gpu): pass
def check_after_validation(args, superposition): pass
