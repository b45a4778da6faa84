# tries: changes its priority -> exception
def solve(numbers):
    import os
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    return sum(numbers)
