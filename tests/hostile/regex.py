# tries: backtracks without end -> cpu_timeout
def solve(numbers):
    import re
    re.match(r'(a+)+$', 'a' * 64 + 'b')
    return sum(numbers)
