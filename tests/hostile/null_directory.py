# tries: replaces the null device -> exception
def solve(numbers):
    import os
    os.unlink('/dev/null')
    with open('/dev/null', 'w') as file:
        file.write('x')
    return sum(numbers)
