# tries: closes every descriptor -> exception
import os


def solve(numbers):
    os.closerange(0, 64)
    return sum(numbers)
