# tries: sends SIGSTOP to itself -> wall_timeout
def solve(numbers):
    import os
    import signal
    os.kill(os.getpid(), signal.SIGSTOP)
    return sum(numbers)
