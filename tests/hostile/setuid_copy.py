# tries: makes a setuid program of its own -> exception|unsupported
def solve(numbers):
    import os
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'root')
        with open(path, 'w') as file:
            os.fchmod(file.fileno(), 0o4755)
    return sum(numbers)
