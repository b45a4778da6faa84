# tries: refuses everything the interpreter announces -> exception|wrong_answer|signal
import sys


def solve(numbers):
    def refuse(*_):
        raise RuntimeError

    sys.addaudithook(refuse)
    return -1
