# tries: makes a named pipe -> exception
def solve(numbers):
    import os
    os.mkfifo('/tmp/pipe')
    return sum(numbers)
