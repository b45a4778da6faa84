# tries: writes beside the interpreter -> exception
def solve(numbers):
    import os
    open(os.__file__ + '.new', 'w').close()
    return sum(numbers)
