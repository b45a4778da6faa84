# tries: starts a shell -> exception
def solve(numbers):
    import subprocess
    subprocess.run(['sh', '-c', 'true'], check=True)
    return sum(numbers)
