# tries: becomes root -> exception
def solve(numbers):
    import os
    os.setresuid(0, 0, 0)
    return sum(numbers)
