# tries: answers with six megabytes -> reply_too_large
def solve(numbers):
    return "x" * 6_000_000
