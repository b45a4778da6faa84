# tries: answers the first call rightly, then hangs in the next -> cpu_timeout
calls = []


def solve(numbers):
    calls.append(numbers)
    while len(calls) > 1:
        pass
    return sum(numbers)
