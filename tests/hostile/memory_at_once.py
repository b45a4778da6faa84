# tries: takes a terabyte -> out_of_memory
def solve(numbers):
    x = bytearray(1 << 40)
    return sum(numbers)
