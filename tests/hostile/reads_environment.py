# tries: looks for secrets in the environment -> exception
def solve(numbers):
    import os
    assert os.environ
    assert os.environb
    return sum(numbers)
