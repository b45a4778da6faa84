# tries: ends its first thread and loops in another -> cpu_timeout|exception
def solve(numbers):
    import ctypes
    import threading

    def loop():
        while True:
            pass

    threading.Thread(target=loop, daemon=True).start()
    ctypes.CDLL(None).syscall(60, 0)
    return sum(numbers)
