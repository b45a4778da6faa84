# tries: kills its process group -> exception
def solve(numbers):
    import os
    import signal
    os.killpg(0, signal.SIGKILL)
    return sum(numbers)
