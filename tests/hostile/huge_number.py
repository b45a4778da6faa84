# tries: answers with a number of a million digits -> wrong_answer
def solve(numbers):
    return 1 << 4_000_000
