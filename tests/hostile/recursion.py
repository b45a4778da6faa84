# tries: calls itself without end -> exception
def solve(numbers):
    return solve(numbers)
    return sum(numbers)
