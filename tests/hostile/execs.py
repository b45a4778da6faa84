# tries: becomes another program -> exception
def solve(numbers):
    import os
    import sys
    os.execv(sys.executable, [sys.executable, '-c', 'pass'])
    return sum(numbers)
