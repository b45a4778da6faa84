# tries: answers with an iterator that never ends -> unsupported_value|cpu_timeout|wrong_answer
import itertools


def solve(numbers):
    return map(int, itertools.count())
