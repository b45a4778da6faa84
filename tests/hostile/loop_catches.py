# tries: never ends and swallows every exception -> cpu_timeout
def solve(numbers):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
    return sum(numbers)
