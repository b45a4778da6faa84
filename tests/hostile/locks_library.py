# tries: locks a file that others see -> exception
def solve(numbers):
    import fcntl
    import os
    with open(os.__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return sum(numbers)
