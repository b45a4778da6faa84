# tries: aborts -> signal
def solve(numbers):
    import os
    os.abort()
    return sum(numbers)
