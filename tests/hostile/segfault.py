# tries: reads a null pointer -> signal
def solve(numbers):
    import ctypes
    ctypes.string_at(0)
    return sum(numbers)
