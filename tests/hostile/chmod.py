# tries: makes a file executable -> exception
def solve(numbers):
    import os
    open('/tmp/x', 'w').close()
    os.chmod('/tmp/x', 0o4755)
    return sum(numbers)
