# tries: asks the kernel to treat it as another -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(157, 4, 1, 0, 0, 0) < 0:
        raise OSError
    return sum(numbers)
