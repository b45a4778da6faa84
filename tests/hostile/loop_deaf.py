# tries: never ends and ignores every signal it may -> cpu_timeout
def solve(numbers):
    import signal
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        pass
    return sum(numbers)
