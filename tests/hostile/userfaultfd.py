# tries: handles page faults itself -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(323, 0) < 0:
        raise OSError
    return sum(numbers)
