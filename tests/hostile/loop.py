# tries: never ends -> cpu_timeout
def solve(numbers):
    while True:
        pass
    return sum(numbers)
