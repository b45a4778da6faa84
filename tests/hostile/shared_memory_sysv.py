# tries: makes System V shared memory -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(29, 0, 1 << 20, 0o1600) < 0:
        raise OSError
    return sum(numbers)
