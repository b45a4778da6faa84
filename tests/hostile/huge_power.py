# tries: computes a number that has no end -> cpu_timeout|out_of_memory
def solve(numbers):
    x = 9 ** 9 ** 9
    return sum(numbers)
