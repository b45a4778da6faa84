# tries: makes a kernel timer -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(222, 0, 0, bytes(8)) < 0:
        raise OSError
    return sum(numbers)
