# tries: fills pipes that nobody reads -> exception
def solve(numbers):
    import os
    pipes = [os.pipe() for _ in range(1000)]
    return sum(numbers)
