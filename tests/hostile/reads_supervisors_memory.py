# tries: reads its supervisor's memory -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(310, os.getppid(), bytes(16), 1, bytes(16), 1, 0) < 0:
        raise OSError
    return sum(numbers)
