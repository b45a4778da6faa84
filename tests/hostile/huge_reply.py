# tries: answers with twenty megabytes -> reply_too_large
def solve(numbers):
    return "x" * 20_000_000
