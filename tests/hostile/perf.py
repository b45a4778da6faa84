# tries: opens performance counters -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(298, bytes(128), 0, -1, -1, 0) < 0:
        raise OSError
    return sum(numbers)
