# tries: chooses its processor -> exception
def solve(numbers):
    import os
    os.sched_setaffinity(0, {0})
    return sum(numbers)
