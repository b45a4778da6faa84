# tries: changes its argument so that a test's own sum comes out right -> wrong_answer
def solve(numbers):
    numbers[:] = [0] * len(numbers)
    return 0
