# tries: kills its supervisor -> exception
def solve(numbers):
    import os
    import signal
    os.kill(os.getppid(), signal.SIGKILL)
    return sum(numbers)
