# tries: leaves its namespaces from a thread -> exception
def solve(numbers):
    import ctypes
    import threading
    found = []
    call = ctypes.CDLL(None, use_errno=True).syscall
    thread = threading.Thread(target=lambda: found.extend((call(272, 0x10000000), call(56, 0x10000111, 0, 0, 0, 0))))
    thread.start()
    thread.join()
    if max(found) < 0:
        raise OSError
    return sum(numbers)
