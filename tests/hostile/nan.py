# tries: answers with not-a-number, which compares oddly -> wrong_answer
def solve(numbers):
    return float("nan")
