# tries: reads /etc/passwd -> exception
def solve(numbers):
    assert open('/etc/passwd').read()
    return sum(numbers)
