# tries: writes to the time zones -> exception
def solve(numbers):
    with open('/usr/share/zoneinfo/UTC', 'r+b') as file:
        file.write(b'T')
    return sum(numbers)
