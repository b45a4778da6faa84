# tries: maps memory by the terabyte -> exception
def solve(numbers):
    import mmap
    map = mmap.mmap(-1, 1 << 40)
    return sum(numbers)
