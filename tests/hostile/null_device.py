# tries: asks the null device for a terminal's input -> exception
def solve(numbers):
    import fcntl
    with open('/dev/null', 'r+b', buffering=0) as file:
        fcntl.ioctl(file, 0x5412, b'x')
    return sum(numbers)
