# tries: moves a file out of the tmpfs -> exception|unsupported
def solve(numbers):
    import os
    import tempfile
    with tempfile.TemporaryDirectory() as inside, tempfile.TemporaryDirectory(dir='/var/tmp') as outside:
        open(os.path.join(inside, 'x'), 'w').close()
        os.rename(os.path.join(inside, 'x'), os.path.join(inside, 'y'))
        open(os.path.join(outside, 'x'), 'w').close()
    return sum(numbers)
