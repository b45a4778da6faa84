# tries: blocks every signal and loops in many threads -> cpu_timeout
def solve(numbers):
    import signal
    import threading

    def loop():
        while True:
            pass

    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    for _ in range(16):
        threading.Thread(target=loop).start()
    loop()
    return sum(numbers)
