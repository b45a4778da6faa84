# tries: locks bytes of a file that others see -> exception
def solve(numbers):
    import fcntl
    import os
    with open(os.__file__) as file:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return sum(numbers)
