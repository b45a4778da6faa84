# tries: links a file of the interpreter -> exception
def solve(numbers):
    import os
    os.link(os.__file__, '/tmp/link')
    return sum(numbers)
