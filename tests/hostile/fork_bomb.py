# tries: forks without end -> exception
def solve(numbers):
    import os
    while True:
        os.fork()
    return sum(numbers)
