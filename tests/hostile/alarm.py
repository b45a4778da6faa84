# tries: is ended by its own alarm -> signal
def solve(numbers):
    import signal
    signal.alarm(1)
    signal.raise_signal(signal.SIGALRM)
    return sum(numbers)
