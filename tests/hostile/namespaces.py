# tries: makes a user namespace -> exception
def solve(numbers):
    import ctypes
    if ctypes.CDLL(None).unshare(0x10000000) != 0:
        raise OSError
    return sum(numbers)
