# tries: leaves no stack for what runs after it -> exception|wrong_answer
import sys


def solve(numbers):
    sys.setrecursionlimit(10)
    return [[[[[[[[[[[[[[[[numbers]]]]]]]]]]]]]]]]
