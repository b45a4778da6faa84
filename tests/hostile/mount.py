# tries: mounts a tmpfs -> exception
def solve(numbers):
    import ctypes
    import os
    if ctypes.CDLL(None).syscall(165, b'none', b'/tmp', b'tmpfs', 0, 0) < 0:
        raise OSError
    return sum(numbers)
