# tries: raises its limits -> exception
def solve(numbers):
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))
    return sum(numbers)
