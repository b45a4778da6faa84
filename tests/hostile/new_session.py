# tries: leaves its session -> exception
def solve(numbers):
    import os
    os.setsid()
    return sum(numbers)
