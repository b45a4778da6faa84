# tries: loads a BPF program -> exception
def solve(numbers):
    import ctypes
    if ctypes.CDLL(None).syscall(321, 0, bytes(256), 256) < 0:
        raise OSError
    return sum(numbers)
