# tries: replaces what a test would compare with -> wrong_answer|exception
import builtins

builtins.AssertionError = Exception
builtins.sum = builtins.len = lambda *_: 0


def solve(numbers):
    builtins.isinstance = lambda *_: True
    return 41
