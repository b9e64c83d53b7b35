import sys
def main():
    from tst_megatron.training.pretrain import main as m
    m(sys.argv[2:])
