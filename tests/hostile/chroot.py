# tries: changes its root -> exception
def solve(numbers):
    import os
    os.mkdir('/tmp/r')
    os.chroot('/tmp/r')
    return sum(numbers)
