# tries: keeps memory in a memfd -> exception
def solve(numbers):
    import os
    os.memfd_create('x')
    return sum(numbers)
