# tries: replaces the system call filter -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(317, 0, 0, 0) < 0:
        raise OSError
    return sum(numbers)
