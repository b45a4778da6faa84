# tries: uses the 32-bit numbers of system calls -> exception
def solve(numbers):
    import ctypes
    if ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) < 0:
        raise OSError
    return sum(numbers)
