# tries: opens an io_uring -> exception
def solve(numbers):
    import ctypes
    if ctypes.CDLL(None).syscall(425, 8, bytes(256)) < 0:
        raise OSError
    return sum(numbers)
