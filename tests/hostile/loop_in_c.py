# tries: never ends, in C code that looks at no signal -> cpu_timeout
def solve(numbers):
    sum(range(1 << 62))
    return sum(numbers)
