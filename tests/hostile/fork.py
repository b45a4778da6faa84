# tries: starts a process -> exception
def solve(numbers):
    import os
    if os.fork() == 0:
        os._exit(0)
    return sum(numbers)
