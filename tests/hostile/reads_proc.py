# tries: reads the environment of the first process -> exception
def solve(numbers):
    assert open('/proc/1/environ').read()
    return sum(numbers)
