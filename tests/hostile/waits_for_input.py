# tries: waits for a line -> exception
def solve(numbers):
    input()
    return sum(numbers)
